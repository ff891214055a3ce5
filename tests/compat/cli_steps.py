"""Command lines for the clients, grouped in stories; each story leaves nothing behind. `{tmp}` is a scratch directory.

`record_cli.py` wrote what docker 28.5 answered on Docker Engine 28.5 to `cli_answers.json`; `test_cli.py` runs the same
with sampan. A line that ends in ` <<< text` gives text as standard input.
"""

from __future__ import annotations

import re
import shlex

STORIES = {
    "run": """
run --rm busybox echo hi
run --rm busybox sh -c 'echo out; echo err >&2; exit 3'
run --rm busybox sh -c 'kill -9 $$'
run --rm -i busybox sh -c 'cat; exit 5' <<< some input
run --rm -a stderr busybox sh -c 'echo o; echo e >&2'
run --rm -w /w busybox pwd
run --rm -e B=2 -e A=1 busybox sh -c 'echo $A$B'
run --rm -u 12:34 busybox id
run --rm --entrypoint echo busybox a b
run --rm --hostname h busybox hostname
run --rm busybox nocommand
run --rm busybox /etc
run --rm -u ghost busybox true
run --rm --cidfile {tmp}/cid busybox true
run --rm --cidfile {tmp}/cid busybox true
run --pull never nope-image
run -it --rm busybox true
run --rm -d --name cli-a busybox sleep 100
run --rm --name cli-a busybox true
stop -t 0 cli-a
""",
    "failed starts": """
network create --subnet 10.247.8.0/24 cli-f
run -d --name cli-p -p 127.0.0.1:18994:80 busybox sleep 1000
run --name cli-q -p 127.0.0.1:18994:80 busybox true
rm cli-q
run --rm --name cli-q -p 127.0.0.1:18994:80 busybox true
run -d --name cli-q -p 127.0.0.1:18994:80 busybox true
start -a cli-q
start cli-q
rm cli-q
run -d --rm --name cli-q -p 127.0.0.1:18994:80 busybox true
run --name cli-q busybox nocommand
start -a cli-q
start cli-q
rm cli-q
run -i --rm --name cli-q busybox nocommand <<< text
run -d --name cli-q busybox nocommand
rm cli-q
run -d --rm --name cli-q --network cli-f busybox nocommand
run -d --restart always --name cli-q busybox nocommand
rm cli-q
run --name cli-q -v /proc/nope/x:/x busybox true
rm cli-q
run -d --name cli-q -v /proc/nope/x:/x busybox true
rm cli-q
run --rm -v /proc/nope/x:/x busybox true
run -d --name cli-q --mount type=bind,src=/nope/y,dst=/y busybox true
run --name cli-q --device /dev/nope busybox true
rm cli-q
run -d --name cli-q --device /dev/nope busybox true
rm cli-q
run -d --name cli-q --network cli-f --ip 10.247.8.1 busybox true
rm cli-q
run --rm --name cli-q --network cli-f --ip 10.247.8.1 busybox true
create --name cli-q --network cli-f busybox true
network rm cli-f
start cli-q
start -a cli-q
rm cli-q
run -d --network cli-f busybox true
run -d --name cli-q --network container:cli-p busybox /etc
run --rm -d --user ghost busybox true
rm -f cli-q cli-p
""",
    "life": """
create --name cli-b busybox sh -c 'trap "exit 7" TERM; echo ready; while :; do sleep 0.05; done'
start cli-b
start cli-b nope
pause cli-b
pause cli-b
ps -a -f name=cli-b --format '{{.Names}} {{.State}} {{.Image}}'
unpause cli-b
unpause cli-b
exec cli-b sh -c 'echo x; exit 4'
exec -i cli-b cat <<< input
exec cli-b nope
exec cli-b /tmp
exec -e A=b -w /tmp cli-b sh -c 'pwd; echo $A'
exec -d cli-b true
logs cli-b
logs --tail 0 cli-b
rename cli-b cli-c
rename nope x
update --memory 64m --memory-swap 128m cli-c
inspect -f '{{.HostConfig.Memory}} {{.Name}}' cli-c
kill -s WINCH cli-c
stop cli-c
wait cli-c
inspect -f '{{.State.ExitCode}} {{.State.Status}} {{.State.Running}}' cli-c
start -a cli-c nope
attach cli-c
diff cli-c
rm cli-c
rm cli-c
rm -f cli-c
""",
    "listing": """
create --name cli-d -l a=1 -l b.c=2 -p 8095:80 -p 8096-8097:90-91/udp --expose 7 -v /tmp:/x busybox sleep 100
ps -a -f name=cli-d --format '{{.Names}}|{{.Image}}|{{.Command}}|{{.Ports}}|{{.Mounts}}|{{.Labels}}|{{.Networks}}|{{.LocalVolumes}}'
ps -a -f name=cli-d --format 'table {{.Names}}\\t{{.Image}}\\t{{.Label "b.c"}}'
ps -a -f name=cli-d --format '{{json .Names}} {{upper .Image}}'
ps -f name=cli-d -q
ps -a -f foo=bar
ps -a -f name=cli-d --format '{{.Nope}}'
ps --format '{{.ID'
inspect -f '{{json .Config.Cmd}} {{range .Mounts}}{{.Source}}:{{.Destination}}{{end}} {{len .HostConfig.PortBindings}}' cli-d
inspect -f '{{index .Config.Labels "a"}}{{with .Config.Labels}} {{index . "b.c"}}{{end}}' cli-d
inspect -f '{{.Nope}}' cli-d
inspect -f '{{foo}}' cli-d
inspect cli-nope
inspect --type image cli-d
inspect --type foo cli-d
container inspect -f '{{.Config.Image}}' cli-d cli-nope
start cli-d
port cli-d
port cli-d 80
port cli-d 81
rm -f cli-d
network ls -f type=builtin --format '{{.Name}} {{.Driver}} {{.Scope}}'
images busybox --format '{{.Repository}}:{{.Tag}}'
version -f '{{.Client.Context}} {{.Server.Os}}'
info -f '{{.OSType}} {{json .Swarm.LocalNodeState}}'
""",  # noqa: E501 - command lines, as they were recorded
    "images": """
create --name cli-e busybox sleep 1
commit -m message -c 'ENV A=b' cli-e cli-image:1
images cli-image --format '{{.Repository}}:{{.Tag}}'
history cli-image:1 --format '{{.Comment}}'
inspect -f '{{json .Config.Env}} {{.Comment}}' cli-image:1
tag cli-image:1 cli-image:2
tag busybox 'X:y'
save -o {tmp}/image.tar cli-image:1 cli-image:2
rmi cli-image:1 cli-image:2
rmi cli-image:1
rmi -f cli-image:1
load -i {tmp}/image.tar
rmi cli-image:1 cli-image:2
export -o {tmp}/root.tar cli-e
import {tmp}/root.tar cli-imported:1
rmi cli-imported:1
load -i {tmp}/nothing
import {tmp}/nothing
save -o {tmp}/no/where busybox
save nope-image -o {tmp}/x.tar
history nope-image
push
pull 'X Y'
rm cli-e
""",
    "objects": """
volume create cli-v --label a=b
volume inspect -f '{{.Name}} {{.Driver}} {{.Labels.a}} {{.Scope}}' cli-v
volume ls -f name=cli-v
volume ls -q -f name=cli-v
volume rm cli-v cli-v
volume rm -f cli-v
volume inspect cli-v
network create cli-n --subnet 10.251.7.0/24 --label a=b --internal
network ls -f name=cli-n --format '{{.Name}} {{.Internal}} {{.Labels}}'
network inspect -f '{{(index .IPAM.Config 0).Subnet}} {{.Internal}} {{len .Containers}}' cli-n
network create cli-n
network connect cli-n cli-nope
network rm cli-n
network inspect cli-n
network rm bridge
network create --subnet foo x
network create --gateway 1.2.3.4 x
""",
    "networks": """
network create --subnet 10.247.1.0/24 --ip-range 10.247.1.128/25 --gateway 10.247.1.9 --aux-address a=10.247.1.5 --label x=1 --label y --attachable -o com.docker.network.driver.mtu=1400 cli-net
network create --ipv6 --subnet 10.247.2.0/24 --subnet fd00:247::/64 --gateway 10.247.2.1 --gateway fd00:247::1 cli-net6
network create --ipv4=false --ipv6 --subnet fd00:248::/64 cli-six
network inspect -f '{{json .IPAM}} {{json .Options}} {{json .Labels}} {{.Attachable}} {{.EnableIPv4}} {{.EnableIPv6}} {{.Scope}}' cli-net cli-net6 cli-six
network inspect -v -f '{{.Name}} {{len .Containers}}' cli-net
network inspect -f '{{.Nope}}' cli-net
network inspect cli-net-nope cli-net -f '{{.Name}}'
network ls -f name=cli- --format '{{.Name}}|{{.Driver}}|{{.Scope}}|{{.IPv4}}|{{.IPv6}}|{{.Internal}}|{{.Labels}}'
network ls -f name=cli-net --format 'table {{.Name}}\\t{{.Driver}}\\t{{.Label "x"}}'
network ls -f label=x=1 -q --no-trunc
network ls -f driver=bridge -f name=cli-six --format '{{json .Name}}'
network ls -f nope=x
network ls -f dangling=maybe
network ls -f type=nope
network ls -f id=zz
network create --subnet 10.247.1.0/24 cli-x
network create --subnet 10.247.9.0/24 --gateway 10.248.1.1 cli-x
network create --subnet 10.247.9.0/24 --ip-range 10.248.1.0/25 cli-x
network create --subnet 10.247.9.0/24 --aux-address a cli-x
network create --subnet 10.247.9.0/24 --aux-address a=10.248.1.1 cli-x
network create --subnet 10.247.9.0/24 --subnet 10.247.9.128/25 cli-x
network create --subnet 10.247.9.0/24 --gateway 10.247.9.1 --gateway 10.247.9.2 cli-x
network create --ip-range 10.247.9.0/25 cli-x
network create --gateway 10.247.9.1 --aux-address a=10.247.9.2 cli-x
network create --opt x cli-x
network create --label cli-x
network create -d nope2 --ipam-driver cli-x
network create
network create a b
network create bridge
network create --ipv4=false cli-x
network create --subnet 10.247.9.0/33 cli-x
run -d --name cli-c1 --network cli-net --ip 10.247.1.200 --network-alias al --mac-address 02:42:0a:f7:01:c8 --link-local-ip 169.254.7.7 busybox sleep 100
run --rm --network cli-net busybox sh -c 'ip -4 -o addr show eth0 | tr -s " " | cut -d" " -f4; ip route | head -1; cat /sys/class/net/eth0/mtu'
run --rm --network name=cli-net,ip=10.247.1.201,alias=a1,mac-address=02:42:0a:f7:01:c9,gw-priority=4,driver-opt=a=b --network cli-net6 busybox sh -c 'ip -4 -o addr | tr -s " " | cut -d" " -f4; cat /sys/class/net/eth0/address'
run --rm --network cli-six busybox sh -c 'ip -4 -o addr | grep -c eth0; ip -6 -o addr show eth0 scope global | tr -s " " | cut -d" " -f4; ip -6 route | grep default | cut -d" " -f1-3'
run --rm --network cli-net --ip 10.247.1.200 busybox true
run --rm --network cli-net --ip 10.248.1.1 busybox true
run --rm --network cli-net --ip x busybox true
run --rm --network bridge --ip 172.17.0.9 busybox true
run --rm --network cli-net --ip6 10.247.1.3 busybox true
run --rm --network cli-net --mac-address x busybox true
run --rm --network cli-nope busybox true
run --rm --network host --network cli-net busybox true
run --rm --network none --network cli-net busybox true
run --rm --network container:cli-nope busybox true
run --rm --network container:cli-c1 -h x busybox true
run --rm --network container:cli-c1 busybox sh -c 'ip -4 -o addr show eth0 | tr -s " " | cut -d" " -f4'
run --rm --network name=cli-net,nope=1 busybox true
network connect --ip 10.247.2.77 --ip6 fd00:247::77 --alias bb --link cli-c1:me --gw-priority 3 --driver-opt a=b cli-net6 cli-c1
inspect -f '{{json (index .NetworkSettings.Networks "cli-net6").IPAMConfig}} {{(index .NetworkSettings.Networks "cli-net6").IPAddress}} {{(index .NetworkSettings.Networks "cli-net6").GwPriority}} {{(index .NetworkSettings.Networks "cli-net6").Aliases}}' cli-c1
exec cli-c1 sh -c 'ip -4 -o addr | tr -s " " | cut -d" " -f4; ip route | head -1'
network inspect -f '{{range .Containers}}{{.Name}} {{.IPv4Address}} {{.IPv6Address}}{{end}}' cli-net6
network connect cli-net6 cli-c1
network connect --ip 10.248.1.1 cli-net6 cli-c1
network connect host cli-c1
network connect cli-nope cli-c1
network rm cli-net6
network rm -f cli-nope
network rm cli-nope
network disconnect cli-net6 cli-c1
network disconnect cli-net6 cli-c1
network disconnect -f cli-net6 cli-nope
exec cli-c1 sh -c 'ip -4 -o addr | tr -s " " | cut -d" " -f4; ip route | head -1'
restart -t 0 cli-c1
exec cli-c1 sh -c 'ip -4 -o addr show eth0 | tr -s " " | cut -d" " -f4; cat /sys/class/net/eth0/address'
network prune -f --filter label=nope
network prune --filter name=x -f
rm -f cli-c1
network rm cli-net cli-net6 cli-six cli-x
""",  # noqa: E501 - command lines, as they were recorded
    "words": """
nope
container nope
ps foo
run
run --nope busybox
run -zx busybox
run --name
run --rm=foo busybox
run -m abc busybox
run -p 999999 busybox
run -p 80/foo busybox
run -p 80-82:90-95 busybox
run --expose x busybox
run --restart foo busybox
run --restart always --rm busybox
run -d -a stdout busybox
run --pull foo busybox
run -v :/x busybox
run -e = busybox
run --label = busybox
run --log-driver none --log-opt a=b busybox
run --memory-swappiness 200 busybox
run --mount foo busybox
run --mount type=bind,src=/x busybox
run --ulimit foo=1 busybox
run --device-read-bps x:1 busybox
run --dns x busybox
run --add-host x busybox
run --env-file {tmp}/nope busybox
run --health-retries=-1 busybox
run --health-interval 5 busybox
run --no-healthcheck --health-cmd x busybox
run --cpus x busybox
run --cpu-shares x busybox
run --pid x busybox
run --uts x busybox
run --security-opt foo busybox
run --blkio-weight 99999 busybox
run --link a:b:c busybox
run --sysctl x busybox
run --storage-opt x busybox
run --tmpfs /x:foo --rm busybox true
run Foo
stop
stop -t abc x
stop nope nope2
kill nope
wait nope
exec
exec x
exec nope ls
logs nope
logs --since foo nope
top nope
attach
diff nope
port nope
start nope
cp a b
cp x:/a y:/b
cp nope:/a {tmp}
export nope
commit nope
commit a b c
tag a
inspect
network connect a
context use nope-context
context rm default
context inspect nope-context
context create default
context show
-H
--nope
-c nope-context ps
--log-level foo ps
login -p x --password-stdin
update nope
""",
}


def split(line: str, tmp: str) -> tuple[list[str], str]:
    """(arguments, standard input)."""
    command, _, text = line.partition(" <<< ")
    return [word.replace("{tmp}", tmp) for word in shlex.split(command)], text


def normal(text: str, tmp: str) -> str:
    """What does not depend on the moment, the machine or the program's name."""
    text = text.replace(tmp, "{tmp}")
    text = re.sub(r"\b[0-9a-f]{64}\b", "ID", text)
    text = re.sub(r"\b[0-9a-f]{12}\b", "SHORT", text)
    text = re.sub(r"open \S+/contexts/meta/ID", "open CONTEXT", text)
    text = text.removesuffix("exit status 1\n")  # an artefact of docker's, which says nothing
    return re.sub(r"\bdocker\b(?=[: ]|$|')", "sampan", text).replace("Docker daemon", "daemon")
