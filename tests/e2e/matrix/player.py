"""Makes the networks of a group on an engine, asks all its questions, and says what came of each.

It stands in front of our engine or of Docker's: nothing here knows which. Addresses are told by the names of the places
that have them. What is dropped looks like what is late, so what differs from what is expected is asked again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from typing import Any

from tests.e2e.matrix.cases import BOUND, CLOSED, INNER, LOCAL, MODE4, MODE6, PUBLISHED, Case, Group, Question
from tests.e2e.matrix.table import ANY, STATIONS, Place, Table, around, gateways, ip_json
from tests.e2e.matrix.world import World
from tests.kernel.net_host import HOST4
from tests.support.engine import Engine

ROUNDS = ((0.5, 250), (1.5, 100), (3.0, 100))  # how long an answer is waited for, and how many wait at once
NOTHING = "nothing"
SHARED = {"other": (32, {}), "beyond": (33, {MODE4: "routed", MODE6: "routed"})}
SHARED_PORTS, FIRST_PORT, PORTS = 7000, 8000, 10
WORKERS = 4

Answers = dict[str, str]


class Player:
    """One group on one engine. Use it in `with`: containers and networks are removed at the end."""

    def __init__(self, engine: Engine, world: World, group: Group) -> None:
        self.engine, self.world, self.group = engine, world, group
        self.opened: list[int] = []
        self.containers: list[str] = []
        self.networks: list[str] = []

    # ── what is made ────────────────────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Player:
        try:
            for name, (number, options) in SHARED.items():
                self._shared(name, number, options)
            with ThreadPoolExecutor(WORKERS) as pool:
                list(pool.map(self.make, range(len(self.group.cases)), self.group.cases.items()))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for fd in self.opened:
            os.close(fd)
        self.opened.clear()
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(lambda name: self.engine.request("DELETE", f"/containers/{name}", force=1), self.containers))
            list(pool.map(lambda name: self.engine.request("DELETE", f"/networks/{name}"), self.networks))

    def _shared(self, name: str, number: int, options: dict[str, str]) -> None:
        self.network(name, {"Options": options, "IPAM": subnets_of(number)})
        port = str(SHARED_PORTS + number)
        self.container(name, name, {f"{INNER}/{proto}": [{"HostPort": port}] for proto in ("tcp", "udp")})

    def network(self, name: str, body: Mapping[str, Any]) -> None:
        self.networks.append(name)
        self.engine.call("POST", "/networks/create", {"Name": name, "EnableIPv6": True, **body})

    def container(
        self, name: str, mode: str, ports: Mapping[str, Any], addresses: Mapping[str, str] | None = None
    ) -> None:
        body = {
            "Image": "busybox",
            "Cmd": ["sleep", "1000"],
            "ExposedPorts": {port: {} for port in ports},
            "HostConfig": {"NetworkMode": mode, "PortBindings": ports},
        }
        if addresses:
            body["NetworkingConfig"] = {"EndpointsConfig": {mode: {"IPAMConfig": addresses}}}
        self.containers.append(name)
        self.engine.call("POST", "/containers/create", body, name=name)
        self.engine.call("POST", f"/containers/{name}/start")

    def make(self, number: int, named: tuple[str, Case]) -> None:
        _, case = named
        mode = case.mode or network_name(number)
        if case.network is not None:
            body = dict(case.network)
            if case.subnets:
                subnets = _vlan_subnets(number) if case.parent else subnets_of(100 + number)
                versions = {"4": body.get("EnableIPv4", True), "6": body.get("EnableIPv6", True)}
                config = [s for s in subnets["Config"] if versions["6" if ":" in s["Subnet"] else "4"]]
                body["IPAM"] = {"Config": config}
            self.network(mode, body)
        self.contained(number, case, mode)

    def contained(self, number: int, case: Case, mode: str) -> None:
        """Start a case's containers."""
        for name in case.containers:
            published = name == "web" and case.kind != "host"
            self.container(
                f"{name}-{number}",
                mode,
                _ports(first_port(number)) if published else {},
                _addresses(case, number, name),
            )
        for name, sharing in case.extra.items():
            self.container(f"{name}-{number}", f"container:{sharing}-{number}", {})

    # ── what is asked ───────────────────────────────────────────────────────────────────────────────────────────

    async def play(self, expected: Mapping[str, Answers]) -> dict[str, Answers]:
        """Return {case: {question: answer}}. What is not answered as expected is asked twice more.

        So is, where nothing is expected, what is not answered.
        """
        shared = around(self.world)
        for name in SHARED:
            shared[name] = self.place(name)
            shared[f"gateway of {name}"] = Place(-1, gateways(self.engine.call("GET", f"/networks/{name}")))
            for address in ANY:
                for udp in (False, True):
                    for port in (INNER, CLOSED):
                        self.world.serve(shared[name].namespace, port, udp=udp, address=address)
        for name in ("host", "lan", "outside"):
            for address in ANY:
                for udp in (False, True):
                    self.world.serve(shared[name].namespace, CLOSED, udp=udp, address=address)
        (way,) = ip_json(self.world, shared["other"].namespace, "-4", "route", "show", "default")
        self.world.send_martians(shared["other"].namespace, way["dev"], way["gateway"])
        self.world.resolve()
        try:
            tables = {name: self._table(n, name, shared) for n, name in enumerate(self.group.cases)}
            await self.world.settled([self.world.own, self.world.lan, *self.opened])
            return await self._asked(tables, expected)
        finally:
            await self.world.unserve()

    async def _asked(self, tables: Mapping[str, Table], expected: Mapping[str, Answers]) -> dict[str, Answers]:
        found = {name: table.facts(self.world, self._ports(n)) for n, (name, table) in enumerate(tables.items())}
        left = [(name, question) for name, table in tables.items() for question in table.questions()]

        async def one(places: asyncio.Semaphore, name: str, question: Question, limit_s: float) -> None:
            async with places:
                found[name][question.describe()] = await tables[name].said(self.world, question, limit_s)

        for limit_s, at_once in ROUNDS:
            places = asyncio.Semaphore(at_once)
            await asyncio.gather(*(one(places, *each, limit_s) for each in left))
            left = [
                (name, question)
                for name, question in left
                if _again(found[name][question.describe()], expected.get(name, {}).get(question.describe()))
            ]
        return {name: dict(sorted(answers.items())) for name, answers in found.items()}

    def _table(self, number: int, name: str, shared: Mapping[str, Place]) -> Table:
        case = self.group.cases[name]
        places = dict(shared)
        for container in case.containers:
            places[container] = self.place(f"{container}-{number}")
        for container, sharing in case.extra.items():
            namespace = self.place(f"{container}-{number}").namespace
            places[container] = Place(namespace, places[sharing].addresses)
        places |= self.more_places(number)
        network: dict[str, Any] = self.engine.call("GET", f"/networks/{case.mode or network_name(number)}")
        table = Table(case, first_port(number), places, network)
        table.join(self.world)
        table.serve(self.world)
        return table

    def more_places(self, number: int) -> dict[str, Place]:
        """Return places that only some kinds of networks have."""
        return {}

    def engine_of(self, name: str) -> Engine:
        """Return the engine that has a container."""
        return self.engine

    def place(self, name: str) -> Place:
        """Return where a container is."""
        inspected = self.engine_of(name).inspect(name)
        self.opened.append(os.open(f"/proc/{inspected['State']['Pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        return Place.of(self.opened[-1], next(iter(inspected["NetworkSettings"]["Networks"].values()), {}))

    def _ports(self, number: int) -> dict[str, Any]:
        return dict(self.engine.inspect(f"web-{number}")["NetworkSettings"]["Ports"] or {})


def _again(answer: str, expected: str | None) -> bool:
    """Return whether to ask again: something may come late, but nothing comes that is kept back."""
    return answer == NOTHING if expected is None else answer != expected


def _ports(first: int) -> dict[str, Any]:
    bindings = [
        {"HostPort": str(first + PUBLISHED)},
        {"HostIp": "127.0.0.1", "HostPort": str(first + LOCAL)},
        {"HostIp": HOST4, "HostPort": str(first + BOUND)},
    ]
    return {f"{INNER}/{proto}": bindings for proto in ("tcp", "udp")}


def first_port(number: int) -> int:
    """Return the first of a case's ports of the host."""
    return FIRST_PORT + PORTS * number


def network_name(number: int) -> str:
    return f"tested-{number}"


def subnets_of(number: int) -> dict[str, Any]:
    return {"Config": [{"Subnet": f"10.{number}.0.0/24"}, {"Subnet": f"fd00:{number}::/64"}]}


def _addresses(case: Case, number: int, name: str) -> dict[str, str]:
    """Return a container's addresses: not the first one, which is the gateway's, and free where there is none."""
    if case.kind not in ("bridge", "container") or case.network is None or not case.subnets:
        return {}
    last = {"web": 2, "peer": 3}[name]
    found = {"IPv4Address": f"10.{100 + number}.0.{last}", "IPv6Address": f"fd00:{100 + number}::{last}"}
    return {key: address for key, address in found.items() if case.network.get(f"Enable{key[:4]}", True)}


def _vlan_subnets(number: int) -> dict[str, Any]:
    subnets = [ip_network(f"10.{40 + number}.0.0/24"), ip_network(f"fd40:{number}::/64")]
    return {"Config": [{"Subnet": str(s), "Gateway": str(s[STATIONS["lan"]])} for s in subnets]}
