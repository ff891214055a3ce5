"""What an engine says to a plugin: one list of commands of the docker CLI, and the calls that it leads to.

    python -m tests.e2e.plugin_calls HOST PLUGIN JOURNAL > tests/e2e/plugin_calls.json

records them of an engine (DOCKER_HOST) that has the test plugin (tests/support/network_plugin.py) under a name; its
plugin must be new. Names, ids and what is drawn by lot are made equal.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

ROUTES = {
    "StaticRoutes": [
        {"Destination": "10.99.0.0/24", "RouteType": 0, "NextHop": "10.78.0.3"},
        {"Destination": "10.98.0.0/24", "RouteType": 1},
    ]
}
NOWHERE = {"InterfaceName": {"SrcName": "nosuchif", "DstPrefix": "eth"}}
OTHER = {"Address": "10.78.0.77/24", "MacAddress": "02:01:01:01:01:01"}
LOOK = "ip -o addr show scope global | cut -d' ' -f2-4,7; ip route | grep -v 172"
SUBNET = "--subnet 10.78.0.0/24"
WORDS = {
    "LOOK": LOOK,
    "SHOW": "{{json .IPAM}}",
    "ROUTES": f"join={json.dumps(ROUTES)}",
    "NOWHERE": f"join={json.dumps(NOWHERE)}",
    "OTHER": f"interface={json.dumps(OTHER)}",
    "REFUSE": "refuse=I will not",
}
COMMANDS = f"""
network create -d PLUGIN {SUBNET} --opt a=b --label l=m plug1
network inspect plug1 --format SHOW
network create -d PLUGIN --ipam-driver PLUGIN --ipam-opt x=y plug2
network inspect plug2 --format SHOW
run -d --name plug-c1 --network plug1 -p 18077:80 -p 18079:81/udp --expose 99 busybox sleep 1000
exec plug-c1 sh -c LOOK
network connect --ip 10.77.0.55 plug2 plug-c1
network connect --alias al plug2 plug-c1
exec plug-c1 sh -c LOOK
network disconnect plug2 plug-c1
exec plug-c1 sh -c LOOK
rm -f plug-c1
run --rm --network plug2 --mac-address 02:11:22:33:44:55 busybox sh -c LOOK
run --rm --network plug1 --ip 10.78.0.9 busybox sh -c LOOK
network rm plug1
network rm plug2
network create -d PLUGIN --ipam-driver null plug3
network inspect plug3 --format SHOW
network rm plug3
network create -d PLUGIN --internal {SUBNET} --gateway 10.78.0.7 --aux-address h=10.78.0.8 --ip-range 10.78.0.128/25 p4
run --rm --network p4 -p 18078:80 busybox sh -c LOOK
network rm p4
network create -d PLUGIN --opt REFUSE plug5
network create -d PLUGIN --ipam-driver PLUGIN --ipam-opt REFUSE plug5
network create -d PLUGIN {SUBNET} --opt prefix=tp --opt ROUTES plug6
run --rm --network plug6 busybox sh -c LOOK
network rm plug6
network create -d PLUGIN {SUBNET} --opt NOWHERE plug7
run --rm --name plug-c7 --network plug7 busybox true
network rm plug7
network create -d PLUGIN {SUBNET} --opt OTHER plug8
run --rm --name plug-c8 --network plug8 busybox true
network rm plug8
network create -d bridge --ipam-driver PLUGIN plug10
run --rm --network plug10 busybox sh -c LOOK
network rm plug10
network create -d bridge --ipam-driver null plug11
network create -d PLUGIN --ipam-driver PLUGIN --subnet 10.79.0.0/24 --ip-range 10.79.0.128/25 --gateway 10.79.0.1 p12
run --rm --network p12 --ip 10.79.0.20 busybox sh -c LOOK
network rm p12
""".strip().splitlines()

ASIDE = ("EndpointOperInfo", "GetCapabilities", "GetDefaultAddressSpaces", "Plugin.Activate")
"""Calls that change nothing: how often and when they are made is the engine's own business."""


def play(docker: Callable[[list[str]], str], plugin: str, journal: str) -> dict[str, Any]:
    """Run the commands; return what each of them said, and the calls of the drivers in order, kind by kind."""
    words = WORDS | {"PLUGIN": plugin}
    said = [docker([words.get(word, word) for word in command.split()]) for command in COMMANDS]
    with open(journal) as file:
        calls = [json.loads(line) for line in file]
    ids: dict[str, str] = {}
    kinds: dict[str, list[Any]] = {"NetworkDriver": [], "IpamDriver": []}
    programmed = set()
    for call in calls:
        kind, _, name = call["call"].strip("/").partition(".")
        for option in ((call["body"] or {}).get("Options") or {}).values():
            if isinstance(option, list):
                option.sort(key=json.dumps)  # of ports: Docker has no order of its own
        endpoint = (call["body"] or {}).get("EndpointID")
        if name == "ProgramExternalConnectivity":
            programmed.add(endpoint)
        idle = name == "RevokeExternalConnectivity" and endpoint not in programmed
        if kind in kinds and name not in ASIDE and not idle:
            kinds[kind].append(json.loads(same(json.dumps([name, call["body"]]), ids)))
    aside = sorted({call["call"].strip("/") for call in calls if call["call"].endswith(ASIDE[1:])})
    return {"said": [same(text.replace(plugin, "PLUGIN"), {}) for text in said], "calls": kinds, "aside": aside}


def same(text: str, ids: dict[str, str]) -> str:
    """Return a text with what differs from run to run made equal; ids are numbered as they come."""
    text = re.sub(r"[0-9a-f]{64}", lambda found: ids.setdefault(found[0], f"id{len(ids)}"), text)
    text = re.sub(r'"SandboxKey": "[^"]+/netns/[0-9a-f]{12}"', '"SandboxKey": "netns"', text)
    text = re.sub(r"/tmp/[^ ]*\.sock", "SOCKET", text)
    text = re.sub(r"02:77(:[0-9a-f]{2}){4}", "MAC", text)
    return re.sub(r"172\.\d+\.", "172.N.", text)


def _docker(host: str) -> Callable[[list[str]], str]:
    def run(command: list[str]) -> str:
        done = subprocess.run(["docker", "-H", host, *command], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    return run


if __name__ == "__main__":
    print(json.dumps(play(_docker(sys.argv[1]), sys.argv[2], sys.argv[3]), indent=1))
