"""Requests about networks, in stories: what each asks an engine, one line a request. `record_networks.py` plays them.

A line is `METHOD PATH [BODY]`; `@1.44 ` before it asks that version of the API instead of 1.51. `! ` before all that:
the answer differs on purpose (docs/compatibility.md). `<name>` is the id of
the network or container that was made under this name, `<name:12>` its beginning. A line `EVENTS` shows the network
events since the story began, `REMOVE name …` takes away what the story made, in this order, with force; at its end all
that it made goes. No story depends on another.
"""

from __future__ import annotations

import json
from typing import Any

CREATE = "POST /networks/create "


def purpose(lines: list[str], *numbers: int) -> list[str]:
    """Return the lines, those of these numbers as differing on purpose."""
    return [f"! {line}" if n in numbers else line for n, line in enumerate(lines)]


def made(name: str, *configs: dict[str, Any], see: bool = True, **given: Any) -> list[str]:
    """Return the requests that create a network, show it and remove it."""
    body: dict[str, Any] = {"Name": name, **given}
    if configs:
        body["IPAM"] = {**body.get("IPAM", {}), "Config": list(configs)}
    lines = [CREATE + json.dumps(body)]
    return [*lines, f"GET /networks/{name}", f"REMOVE {name}"] if see else lines


def subnet(text: str, **given: Any) -> dict[str, Any]:
    return {"Subnet": text, **given}


def container(name: str, mode: str | None = None, endpoints: Any = None, **given: Any) -> list[str]:
    """Return the requests that create a container with endpoints, show its networks and remove it."""
    body: dict[str, Any] = {"Image": "busybox", "Cmd": ["sleep", "1000"], **given}
    if mode is not None:
        body["HostConfig"] = {**body.get("HostConfig", {}), "NetworkMode": mode}
    if endpoints is not None:
        body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    return [f"POST /containers/create?name={name} {json.dumps(body)}", f"GET /containers/{name}/json", f"REMOVE {name}"]


def connect(network: str, target: str, config: Any = None) -> str:
    body = {"Container": target, **({"EndpointConfig": config} if config is not None else {})}
    return f"POST /networks/{network}/connect {json.dumps(body)}"


def disconnect(network: str, target: str, force: bool | None = None) -> str:
    body = {"Container": target, **({"Force": force} if force is not None else {})}
    return f"POST /networks/{network}/disconnect {json.dumps(body)}"


def listed(*filters: Any, version: str = "") -> list[str]:
    return [f"{version}GET /networks?filters={json.dumps(f) if not isinstance(f, str) else f}" for f in filters]


B = "com.docker.network.bridge."
ODD_NAMES = (
    "",
    " ",
    "a b",
    "a/b",
    "-a",
    ".a",
    "a:b",
    "ä",
    "a%b",
    "a\tb",
    " lead",
    "trail ",
    "A" * 130,
    "a,b",
    "a=b",
    "a@b",
    "\u0000",
    "0",
    "host",
    "none",
    "bridge",
    "default",
    "container:x",
    "ingress",
    "nat",
    "null",
)
ADDRESSES = (
    "10.231.5.7",
    "10.231.5.0",
    "10.231.5.255",
    "10.231.5.1",
    "10.99.0.1",
    "10.231.5",
    "fd00:5::7",
    "0.0.0.0",
    "::",
    "10.231.5.007",
    "10.231.5.7/24",
    " 10.231.5.7",
    "127.0.0.1",
    "224.0.0.1",
    "x",
)
ADDRESSES6 = (
    "fd00:5::7",
    "fd00:5::",
    "fd00:5::1",
    "fd00:6::1",
    "10.231.5.7",
    "fd00:5::7/64",
    "::ffff:10.231.5.7",
    "fe80::1",
    "FD00:5::A",
    "fd00:5:0:0:0:0:0:b",
    "ff02::1",
    "x",
)
MACS = (
    "02:42:0a:e7:05:07",
    "02-42-0a-e7-05-07",
    "0242.0ae7.0507",
    "02420ae70507",
    "02:42:0A:E7:05:07",
    "02:42:0a:e7:05",
    "x",
    "00:00:00:00:00:00",
    "ff:ff:ff:ff:ff:ff",
    "01:00:5e:00:00:01",
    "2:42:a:e7:5:7",
    "02:42-0a:e7:05:07",
)
ODD_SUBNETS = (
    "10.231.0.0/99",
    "10.231.0.0/-1",
    "10.231.0.0",
    "10.231.0.5/24",
    "x",
    "",
    "/24",
    "10.231.0/24",
    "fd00:5::/129",
    "fd00:5::1/64",
    "FD00:0005::/64",
    "10.231.00.0/24",
    " 10.231.0.0/24",
    "0.0.0.0/0",
    "::/0",
    "127.0.0.0/8",
    "224.0.0.0/24",
    "169.254.0.0/24",
    "fe80::/64",
    "ff02::/64",
    "fe80::/10",
    "10.231.0.0/255.255.255.0",
    "10.231.0.0/024",
)

WRONG: list[dict[str, Any]] = [
    {"Gateway": "10.231.2.1"},
    {"Gateway": "x"},
    {"Gateway": "fd00::1"},
    {"Gateway": "10.232.~.0/24"},
    {"IPRange": "10.231.2.0/25"},
    {"IPRange": "10.232.0.0/16"},
    {"IPRange": "10.232.~.5/25"},
    {"IPRange": "x"},
    {"IPRange": "10.232.~.128"},
    {"IPRange": "fd00::/64"},
    {"AuxiliaryAddresses": {"a": "10.231.2.1"}},
    {"AuxiliaryAddresses": {"a": "x"}},
    {"AuxiliaryAddresses": {"a": "10.232.~.9", "b": "10.232.~.9"}},
    {"AuxiliaryAddresses": {"a": "fd00::1"}},
    {"AuxiliaryAddresses": {"": "10.232.~.9"}},
    {"Gateway": "10.232.~.1", "AuxiliaryAddresses": {"a": "10.232.~.1"}},
    {"Gateway": "10.231.2.1", "IPRange": "x", "AuxiliaryAddresses": {"a": "y"}},
    {"Gateway": "10.232.~.0"},
    {"Gateway": "10.232.~.255"},
    {"AuxiliaryAddresses": {"a": "10.232.~.0"}},
    {"AuxiliaryAddresses": {"DefaultGatewayIPv4": "10.232.~.9"}},
    {"IPRange": "10.232.~.0/24"},
    {"IPRange": "10.232.~.7/32"},
    {"Gateway": "10.232.~.1", "IPRange": "10.232.~.0/31"},
    {"Gateway": "0.0.0.0"},
    {"IPRange": "10.232.~.128/025"},
]
WRONG_OPTIONS = (
    {B + "enable_icc": "x"},
    {B + "enable_ip_masquerade": "x"},
    {B + "host_binding_ipv4": "x"},
    {"com.docker.network.driver.mtu": "x"},
    {"com.docker.network.driver.mtu": "-1"},
    {B + "name": "a" * 16},
    {B + "gateway_mode_ipv4": "x"},
    {B + "inhibit_ipv4": "x"},
    {"com.docker.network.host_ipv4": "x"},
    {B + "gateway_mode_ipv4": "nat-unprotected"},
    {"com.docker.network.driver.mtu": "1400"},
    {B + "enable_icc": "false"},
)

PORT = {"PortBindings": {"80/tcp": [{"HostPort": "18993"}]}}
EXPOSED: dict[str, Any] = {"HostConfig": PORT, "ExposedPorts": {"80/tcp": {}}}


def fails(*requests: str) -> list[str]:
    """Return the requests by which a container does not start; it goes at the end."""
    return [*requests, "REMOVE xf2"]


FAILED_STARTS = [
    container("xf1", "nb", {"nb": {"IPAMConfig": {"IPv4Address": "10.231.6.9"}}}, **EXPOSED)[0],
    "POST /containers/xf1/start",
    *fails(container("xf2", "na", HostConfig=PORT)[0], "POST /containers/xf2/start"),
    *fails(container("xf2", "na", **EXPOSED)[0], "POST /containers/xf2/start"),
    *fails(container("xf2", "na", Cmd=["/nope"])[0], "POST /containers/xf2/start"),
    *fails(container("xf2", "host", Cmd=["/nope"])[0], "POST /containers/xf2/start"),
    *fails(container("xf2", "none", Cmd=["/nope"])[0], "POST /containers/xf2/start"),
    *fails(container("xf2", "container:xf1", Cmd=["/nope"])[0], "POST /containers/xf2/start"),
    *fails(container("xf2", "na", Cmd=["/nope"], HostConfig={"AutoRemove": True})[0], "POST /containers/xf2/start"),
    *fails(
        container("xf2", "nb", {"nb": {"IPAMConfig": {"IPv4Address": "10.231.6.9"}}})[0], "POST /containers/xf2/start"
    ),
    *made("nc", subnet("10.231.7.0/24"), see=False),
    *fails(container("xf2", "nc")[0], "REMOVE nc", "POST /containers/xf2/start"),
    *fails(container("xf2", "na", Cmd=["true"])[0], "POST /containers/xf2/start", "POST /containers/xf2/wait"),
    "REMOVE xf1",
]
GWBRIDGE = "docker_gwbridge"
RESERVED = ("bridge", "host", "none", "ingress", "default", GWBRIDGE)
RESERVED_NAMES = [
    *(line for name in RESERVED for line in made(name, subnet("10.231.5.0/24"))[::2]),
    *(line for name in RESERVED for line in made(name, ConfigOnly=True)[::2]),
    *(line for name in RESERVED for line in made(name, subnet("10.231.5.0/24"), Ingress=True)[::2]),
    *(line for name in RESERVED for line in made(name, Driver="host")[::2]),
    *(f"DELETE /networks/{name}" for name in RESERVED),
    *(f"GET /networks/{name}" for name in ("ingress", "default", GWBRIDGE)),
    *made(GWBRIDGE, subnet("10.231.5.0/24"), ConfigOnly=True, see=False),
    f"GET /networks/{GWBRIDGE}",
    CREATE + json.dumps({"Name": GWBRIDGE, "ConfigOnly": True}),
    CREATE + json.dumps({"Name": "na", "ConfigFrom": {"Network": GWBRIDGE}}),
    "GET /networks/na",
    f"DELETE /networks/{GWBRIDGE}",
    *container("xr1", GWBRIDGE),
    container("xr1", "na")[0],
    connect(GWBRIDGE, "xr1"),
    *("POST /containers/xr1/start", connect(GWBRIDGE, "xr1"), disconnect(GWBRIDGE, "xr1")),
    f"REMOVE xr1 na {GWBRIDGE}",
    *made(GWBRIDGE, subnet("10.231.5.0/24"), see=False),
    *(container("xr1", GWBRIDGE)[0], "POST /containers/xr1/start"),
    *(connect(name, "xr1") for name in RESERVED),
    *(disconnect(name, "xr1") for name in RESERVED),
    *(container("xr2", "bridge")[0], *(purpose([connect(name, "xr2") for name in RESERVED], 3, 4))),
    *purpose([disconnect(name, "xr2") for name in RESERVED], 3, 4),
    "GET /containers/xr2/json",
]

STORIES: dict[str, list[str]] = {
    "names": [line for name in ODD_NAMES for line in (CREATE + json.dumps({"Name": name}),)]
    + ["GET /networks/<a/b>", "GET /networks/a%2fb", "GET /networks/-a", "GET /networks/a:b"],
    "create": [
        *made("na", subnet("10.231.1.0/24")),
        *made("na", subnet("10.231.1.0/24", Gateway="10.231.1.9", IPRange="10.231.1.128/25")),
        *made("na", subnet("10.231.11.0/24", AuxiliaryAddresses={"a": "10.231.11.1", "b": "10.231.11.2"})),
        *made("na", subnet("10.231.12.0/24", AuxiliaryAddresses={"a": "10.231.12.8", "b": "10.231.12.2"})),
        *made("na", subnet("10.231.1.0/24"), Internal=True, Attachable=True, Labels={"a": "b", "c": ""}),
        *made("na", subnet("10.231.1.0/24"), Options={B + "name": "brna", "x": "y"}, CheckDuplicate=True),
        *made("na", subnet("10.231.1.0/24"), subnet("fd00:5::/64"), EnableIPv6=True),
        *made("na", subnet("fd00:5::/64"), subnet("10.231.1.0/24"), EnableIPv6=True),
        *made("na", subnet("fd00:5::/64"), EnableIPv6=True, EnableIPv4=False),
        *purpose(made("na", subnet("fd00:5::/64"), EnableIPv6=False), 1),
        *purpose(made("na", subnet("10.231.1.0/24"), EnableIPv4=False, EnableIPv6=True), 1),
        *made("na", EnableIPv4=False, EnableIPv6=False),
        *made("na", Options={"com.docker.network.enable_ipv6": "x"}),
        *made("na", subnet("10.231.1.0/24"), Options={"com.docker.network.enable_ipv6": "false"}),
        *made(
            "na",
            subnet("fd00:5::/64"),
            Options={"com.docker.network.enable_ipv4": "0", "com.docker.network.enable_ipv6": "1"},
        ),
        *made("na", subnet("10.231.1.0/31")),
        *made("na", subnet("10.231.1.0/32")),
        *made("na", subnet("10.231.1.0/30")),
        *made("na", subnet("fd00:5::/127"), EnableIPv6=True, EnableIPv4=False),
        *made("na", subnet("fd00:5::/128"), EnableIPv6=True, EnableIPv4=False),
        *made("na", subnet("fd00:5::/16"), EnableIPv6=True, EnableIPv4=False),
        *made("na", subnet("10.231.1.0/24"), Driver="default"),
        *made("na", subnet("10.231.1.0/24"), Driver="nope"),
        *made("na", Driver="host"),
        *made("na", Driver="null"),
        *made("na", Driver="none"),
        *made("na", subnet("10.231.1.0/24"), Scope="local"),
        *made("na", subnet("10.231.1.0/24"), IPAM={"Driver": "nope"}),
        *made("na", subnet("10.231.1.0/24"), IPAM={"Driver": "default", "Options": {"a": "b"}}),
        CREATE + "{}",
        CREATE + '{"Name":"na","IPAM":{"Config":[{}]}}',
        CREATE + '{"Name":"na","IPAM":{"Config":[{"Gateway":"10.231.1.1"}]}}',
        CREATE + '{"Name":"na","IPAM":{"Config":[{"IPRange":"10.231.1.0/25"}]}}',
        "@1.43 " + CREATE + '{"Name":"na","CheckDuplicate":true,"IPAM":{"Config":[{"Subnet":"10.231.1.0/24"}]}}',
        "@1.43 GET /networks/na",
        "@1.47 GET /networks/na",
        "@1.24 GET /networks/na",
        "REMOVE na",
        "@1.47 " + CREATE + '{"Name":"na","EnableIPv4":false,"IPAM":{"Config":[{"Subnet":"10.231.1.0/24"}]}}',
        "GET /networks/na",
        "REMOVE na",
    ],
    "subnets": [line for text in ODD_SUBNETS for line in made("na", subnet(text), EnableIPv6=(":" in text))],
    "wrong addresses": [
        *(
            line.replace("~", str(n))
            for n, given in enumerate(WRONG)
            for line in made("na", subnet("10.232.~.0/24", **given))
        ),
        *made("na", subnet("10.231.1.0/24"), subnet("10.231.2.0/24")),
        *made("na", subnet("fd00:15::/64"), subnet("fd00:16::/64"), EnableIPv6=True),
        *made("na", subnet("10.231.4.0/24"), see=False),
        *made("nb", subnet("10.231.4.0/24"), see=False),
        *made("nb", subnet("10.231.4.128/25"), see=False),
        *made("nb", subnet("10.231.0.0/16"), see=False),
        *made("na", subnet("10.231.5.0/24"), see=False),
        "REMOVE na",
        *purpose(made("na", subnet("::ffff:10.231.0.0/120"), EnableIPv6=True), 0),
        *purpose(made("na", subnet("10.231.6.0/24"), Options={B + "name": "a/b"}), 0),
        *purpose(made("na", subnet("10.231.7.0/24"), Options={B + "name": "a b"}), 0),
        *(
            line.replace("~", str(n))
            for n, options in enumerate(WRONG_OPTIONS)
            for line in made("na", subnet("10.233.~.0/24"), Options=options)
        ),
    ],
    "show": [
        *made("na", subnet("10.231.1.0/24"), see=False),
        "GET /networks/na",
        "GET /networks/<na>",
        "GET /networks/<na:12>",
        "GET /networks/<na:3>",
        "GET /networks/",
        "GET /networks/n",
        "GET /networks/NA",
        "GET /networks/na?verbose=true",
        "GET /networks/na?verbose=x",
        "GET /networks/na?scope=local",
        "GET /networks/na?scope=global",
        "GET /networks/na?scope=swarm",
        "GET /networks/na?scope=x",
        "GET /networks/bridge?scope=local",
        "GET /networks/host",
        "GET /networks/none",
        "GET /networks/nope",
        "DELETE /networks/nope",
        "DELETE /networks/bridge",
        "DELETE /networks/host",
        "DELETE /networks/none",
        "DELETE /networks/<na:5>",
        "GET /networks/na",
        "DELETE /networks/na",
        CREATE + '{"Name":"n1","Labels":{"x":"1","y":"2"},"IPAM":{"Config":[{"Subnet":"10.231.1.0/24"}]}}',
        CREATE + '{"Name":"n2","Labels":{"x":"2"},"Internal":true,"IPAM":{"Config":[{"Subnet":"10.231.2.0/24"}]}}',
        *listed(
            {"name": ["n1"]},
            {"name": ["n"]},
            {"name": ["^n[12]$"]},
            {"name": ["n1", "n2"]},
            {"id": ["<n1>"]},
            {"id": ["<n1:6>"]},
            {"id": ["zz"]},
            {"label": ["x"]},
            {"label": ["x=1"]},
            {"label": ["x", "y"]},
            {"label": ["x=1", "x=2"]},
            {"label": ["z"]},
            {"label!": ["x"]},
            {"driver": ["bridge"]},
            {"driver": ["null"]},
            {"driver": ["host", "null"]},
            {"driver": ["nope"]},
            {"driver": ["brid"]},
            {"scope": ["local"]},
            {"scope": ["swarm"]},
            {"scope": ["x"]},
            {"type": ["custom"]},
            {"type": ["builtin"]},
            {"type": ["custom", "builtin"]},
            {"type": ["x"]},
            {"type": ["builtin", "x"]},
            {"dangling": ["true"]},
            {"dangling": ["false"]},
            {"dangling": ["1"]},
            {"dangling": ["x"]},
            {"dangling": ["true", "false"]},
            {"until": ["1h"]},
            {"nope": ["x"]},
            {"idOrName": ["n1"]},
            {"idOrName": ["<n2>"]},
            {"name": ["n1"], "driver": ["host"]},
            {"name": ["n1"], "label": ["x=1"]},
            {"name": []},
            {"name": [""]},
            {"name": {"n1": True}},
            {"name": {"n1": False}},
            "x",
            "[]",
            '{"name":"n1"}',
        ),
        "GET /networks?filters=",
        "@1.24 GET /networks?filters={%22name%22:[%22n1%22]}",
        "@1.47 GET /networks?filters={%22name%22:[%22n1%22]}",
        *(
            f"POST /networks/prune?filters={json.dumps(f)}"
            for f in (
                {"label": ["zz"]},
                {"label!": ["x"]},
                {"until": ["1h"]},
                {"until": ["x"]},
                {"until": ["1h", "2h"]},
                {"name": ["n1"]},
                {"dangling": ["true"]},
                {"label": ["x=1"]},
            )
        ),
        "POST /networks/prune?filters=x",
        "POST /networks/prune",
        "POST /networks/prune",
        "GET /networks/n2",
        "EVENTS",
    ],
    "endpoints": [
        *made("na", subnet("10.231.5.0/24"), subnet("fd00:5::/64"), EnableIPv6=True, see=False),
        *made("nb", subnet("10.231.6.0/24"), see=False),
        CREATE + '{"Name":"nx"}',
        *container("xc1"),
        *container("xc1", "default"),
        *container("xc1", "bridge"),
        *container("xc1", "na"),
        *container("xc1", "<na>"),
        *container("xc1", "<na:12>"),
        *container("xc1", "none"),
        *container("xc1", "host"),
        *container("xc1", "nope"),
        *container("xc1", ""),
        *container("xc1", "container:nope"),
        *container("xc1", "container:"),
        *container("xc1", "container:xc1"),
        *container("xc1", "na", {"na": {}}),
        *container("xc1", "na", {"na": None}),
        *container("xc1", "na", {"nb": {}}),
        *container("xc1", "na", {"na": {"Aliases": ["x", "y"]}, "nb": {"Aliases": ["z"], "GwPriority": 5}}),
        *purpose(container("xc1", "na", {"na": {"Aliases": ["x"]}, "<nb>": {}}), 1),
        *container("xc1", "<na>", {"na": {"Aliases": ["q"]}}),
        *container("xc1", "na", {"<na>": {"Aliases": ["q"]}}),
        *container("xc1", None, {"na": {}}),
        *container("xc1", "bridge", {"na": {}}),
        *container("xc1", "bridge", {"bridge": {}, "na": {}}),
        *container("xc1", "default", {"default": {}}),
        *container("xc1", "default", {"bridge": {"Aliases": ["x"]}}),
        *container("xc1", "none", {"none": {}}),
        *container("xc1", "none", {"na": {}}),
        *container("xc1", "none", {"none": {}, "na": {}}),
        *container("xc1", "host", {"host": {}}),
        *container("xc1", "host", {"na": {}}),
        *container("xc1", "na", {"host": {}}),
        *container("xc1", "na", {"none": {}}),
        *container("xc1", "na", {"nope": {}}),
        *container("xc1", "na", {"": {}}),
        *container("xc1", "na", {"na": {"DriverOpts": {"a": "b"}}}),
        *container("xc1", "na", {"na": {"Links": ["nope:x"]}}),
        *purpose(
            container(
                "xc1",
                "na",
                {
                    "na": {
                        "NetworkID": "x",
                        "EndpointID": "y",
                        "Gateway": "1.2.3.4",
                        "IPAddress": "10.231.5.9",
                        "DNSNames": ["q"],
                        "IPPrefixLen": 7,
                    }
                },
            ),
            1,
        ),
        *container("xc1", "na", {"na": {"IPAMConfig": {"LinkLocalIPs": ["169.254.3.4", "fe80::9"]}}}),
        *container("xc1", "na", {"na": {"IPAMConfig": {"LinkLocalIPs": ["x"]}}}),
        *container("xc1", "na", {"na": {"IPAMConfig": {"LinkLocalIPs": ["10.1.2.3"]}}}),
        *container("xc1", "na", {"na": {"IPAMConfig": {}}}),
        *container("xc1", "nx", {"nx": {"IPAMConfig": {"IPv4Address": "172.18.0.9"}}}),
        *container("xc1", "bridge", {"bridge": {"IPAMConfig": {"IPv4Address": "172.17.0.9"}}}),
        *container("xc1", "na", {"na": {"MacAddress": "02:42:0a:e7:05:07"}}, MacAddress="02:42:0a:e7:05:08"),
        *container("xc1", "na", MacAddress="02:42:0a:e7:05:08"),
        *container("xc1", "host", MacAddress="02:42:0a:e7:05:08"),
        *container("xc1", "none", MacAddress="02:42:0a:e7:05:08"),
        *container("xc1", "host", Hostname="h"),
        *container("xc1", "container:nope", Hostname="h"),
        *(
            "@1.43 " + line if line.startswith("POST") else line
            for line in container("xc1", "na", MacAddress="02:42:0a:e7:05:08")
        ),
        *(
            "@1.43 " + line if line.startswith("POST") else line
            for line in container("xc1", "na", {"na": {}, "nb": {}})
        ),
        *("@1.44 " + line for line in container("xc1", "na", {"na": {"Aliases": ["x"]}})[:2]),
        "@1.43 GET /containers/xc1/json",
        "@1.48 GET /containers/xc1/json",
        "@1.47 GET /containers/xc1/json",
        "REMOVE xc1",
        "REMOVE na nb nx",
    ],
    "addresses": [
        *made("na", subnet("10.231.5.0/24"), subnet("fd00:5::/64"), EnableIPv6=True, see=False),
        *(line for a in ADDRESSES for line in container("xc1", "na", {"na": {"IPAMConfig": {"IPv4Address": a}}})),
        *(line for a in ADDRESSES6 for line in container("xc1", "na", {"na": {"IPAMConfig": {"IPv6Address": a}}})),
        *(line for mac in MACS for line in container("xc1", "na", {"na": {"MacAddress": mac}})),
        *(line for mac in MACS for line in container("xc1", "na", MacAddress=mac)),
        *purpose(container("xc1", "na", {"na": {"MacAddress": "02:42:0a:e7:05:07:08:09"}}), 0, 1),
        *purpose(container("xc1", "na", MacAddress="02:42:0a:e7:05:07:08:09"), 0, 1),
        "REMOVE na",
    ],
    "running": [
        *made("na", subnet("10.231.5.0/29", AuxiliaryAddresses={"a": "10.231.5.2"}), see=False),
        *made("nb", subnet("10.231.6.0/24"), subnet("fd00:6::/64"), EnableIPv6=True, see=False),
        container(
            "xc1",
            "na",
            {"na": {"IPAMConfig": {"IPv4Address": "10.231.5.4"}, "Aliases": ["al"], "MacAddress": "02:42:0a:e7:05:04"}},
        )[0],
        container("xc2", "na")[0],
        container("xc3", "na", {"na": {"IPAMConfig": {"IPv4Address": "10.231.5.4"}}})[0],
        container("xc4", "na", {"na": {"IPAMConfig": {"IPv4Address": "10.231.5.1"}}})[0],
        container("xc5", "na", {"na": {"IPAMConfig": {"IPv4Address": "10.231.9.1"}}})[0],
        container("xc6", "na", {"na": {"IPAMConfig": {"IPv4Address": "10.231.5.2"}}})[0],
        *(f"POST /containers/{name}/start" for name in ("xc1", "xc2", "xc3", "xc4", "xc5", "xc6")),
        "GET /networks/na",
        "GET /containers/xc1/json",
        "GET /containers/xc2/json",
        "DELETE /networks/na",
        'POST /networks/prune?filters={"label":["none"]}',
        *purpose(listed({"dangling": ["true"]}, {"dangling": ["false"]}), 0, 1),
        connect(
            "nb",
            "xc1",
            {
                "IPAMConfig": {"IPv4Address": "10.231.6.44", "IPv6Address": "fd00:6::44"},
                "Aliases": ["bb"],
                "GwPriority": 3,
            },
        ),
        "GET /containers/xc1/json",
        connect("nb", "xc1"),
        connect("nb", "xc2", {"IPAMConfig": {"IPv4Address": "10.231.6.44"}}),
        connect("nb", "xc2", {"IPAMConfig": {"IPv4Address": "10.9.6.44"}}),
        connect("nb", "xc2", {"IPAMConfig": {"IPv4Address": "x"}}),
        connect("nb", "xc2", {"MacAddress": "x"}),
        connect("nb", "nope"),
        connect("nope", "xc2"),
        connect("host", "xc2"),
        connect("none", "xc2"),
        connect("bridge", "xc2", {"Aliases": ["x"]}),
        connect("bridge", "xc2", {"IPAMConfig": {"IPv4Address": "172.17.0.9"}}),
        connect("nb", "", {}),
        connect("nb", "xc2", {"DriverOpts": {"com.docker.network.endpoint.sysctls": "x"}}),
        connect("nb", "xc2", {"Links": ["xc1:other"]}),
        "GET /networks/nb",
        "GET /containers/xc2/json",
        disconnect("nb", "xc2"),
        connect("nb", "xc2", {"MacAddress": "02:42:0a:e7:06:99"}),
        "! GET /containers/xc2/json",
        disconnect("nb", "xc2"),
        disconnect("nb", "xc2"),
        disconnect("nb", "xc2", True),
        disconnect("nb", "nope"),
        disconnect("nb", "nope", True),
        disconnect("nope", "xc2"),
        disconnect("host", "xc2"),
        disconnect("bridge", "xc2"),
        disconnect("nb", ""),
        "POST /containers/xc1/restart?t=0",
        "GET /containers/xc1/json",
        container("xc0", "na")[0],
        connect("nb", "xc0"),
        "GET /containers/xc0/json",
        disconnect("nb", "xc0"),
        "GET /containers/xc0/json",
        disconnect("na", "xc0"),
        "GET /containers/xc0/json",
        connect("na", "xc0", {"IPAMConfig": {"IPv4Address": "10.231.5.5"}}),
        "GET /containers/xc0/json",
        "POST /containers/xc0/start",
        "GET /containers/xc0/json",
        "POST /containers/xc6/start",
        container("xc7", "na")[0],
        "POST /containers/xc7/start",
        container("xc8", "na")[0],
        "! POST /containers/xc8/start",
        "GET /networks/na",
        container("xd1", "container:xc1")[0],
        "GET /containers/xd1/json",
        f"! {connect('nb', 'xd1')}",
        f"! {disconnect('nb', 'xd1')}",
        "POST /containers/xd1/start",
        connect("nb", "xd1"),
        "GET /containers/xd1/json",
        container("xd2", "host")[0],
        "POST /containers/xd2/start",
        "GET /containers/xd2/json",
        connect("nb", "xd2"),
        disconnect("host", "xd2"),
        container("xd3", "none")[0],
        "POST /containers/xd3/start",
        "GET /containers/xd3/json",
        connect("nb", "xd3"),
        disconnect("none", "xd3"),
        "GET /containers/xd3/json",
        connect("nb", "xd3"),
        "GET /containers/xd3/json",
    ],
    "events": [
        *made("na", subnet("10.231.5.0/24"), see=False),
        *made("nb", subnet("10.231.6.0/24"), see=False),
        container("xc1", "na")[0],
        "POST /containers/xc1/start",
        connect("nb", "xc1"),
        disconnect("nb", "xc1"),
        "POST /containers/xc1/restart?t=0",
        "POST /containers/xc1/kill",
        "POST /containers/xc1/wait",
        connect("nb", "xc1"),
        disconnect("nb", "xc1"),
        container("xc2", "host")[0],
        "POST /containers/xc2/start",
        container("xc3", "none")[0],
        "POST /containers/xc3/start",
        container("xc4")[0],
        "POST /containers/xc4/start",
        "REMOVE xc4",
        "REMOVE xc3",
        "REMOVE xc2",
        "REMOVE xc1",
        "DELETE /networks/na",
        "POST /networks/prune",
        *made("na", subnet("10.231.3.0/33"), see=False),
        "EVENTS",
    ],
    "other drivers": [
        *made("na", subnet("10.231.1.0/24"), Scope="global"),
        *made("na", subnet("10.231.1.0/24"), Scope="x"),
        *made("na", subnet("10.231.2.0/24"), Scope="swarm"),
        *made("na", subnet("10.231.3.0/24"), subnet("10.231.3.0/24")),
        *made("na", subnet("10.231.13.0/24"), IPAM={"Driver": "null"}),
        *made("na", IPAM={"Driver": "null"}),
        *made("cfg", subnet("10.231.7.0/24"), ConfigOnly=True, Labels={"a": "b"}, see=False),
        "GET /networks/cfg",
        *made("nc", ConfigFrom={"Network": "cfg"}),
        *made("nc", subnet("10.231.8.0/24"), ConfigFrom={"Network": "cfg"}),
        *made("nc", ConfigFrom={"Network": "nope"}),
        *made("nc", ConfigFrom={"Network": "cfg"}, ConfigOnly=True),
    ],
    "failed starts": [
        *made("na", subnet("10.231.5.0/24"), see=False),
        *made("nb", subnet("10.231.6.0/24"), see=False),
        *FAILED_STARTS,
        "REMOVE na nb",
        "EVENTS",
    ],
    "reserved names": RESERVED_NAMES,
}
