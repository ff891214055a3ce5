"""A network and IPAM plugin as other programs write them: a process that serves Docker's protocol on a unix socket.

Its networks are real: a bridge for each network, a veth pair for each endpoint, one end of which it leaves to the
engine. It writes every call into a journal, a line of JSON each: path, headers, body, answer. Options of a network
say what it shall add or do wrong; so does the file `<socket>.fault` (`{"NetworkDriver.Join": "hang"}`), read at each
call.

    python -m tests.support.network_plugin SOCKET JOURNAL [GlobalScope] [RequiresMACAddress] [RequiresRequestReplay]

Source: moby libnetwork docs/remote.md and docs/ipam.md; nothing of the engine but its netlink library is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socketserver
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

from sampan.linux import netlink
from sampan.linux.netlink import Netlink

JSON = dict[str, Any]
GENERIC = "com.docker.network.generic"
POOL = "10.77.0.0/24"


class Plugin:
    """What it knows: networks, endpoints, pools. `answer` takes one call at a time."""

    def __init__(self, flags: set[str]) -> None:
        self.flags = flags
        self.networks: dict[str, JSON] = {}
        self.endpoints: dict[str, JSON] = {}
        self.pools: dict[str, tuple[str, set[str]]] = {}
        self.lock = threading.Lock()

    def answer(self, path: str, body: JSON) -> JSON:
        with self.lock:
            kind, _, call = path.strip("/").partition(".")
            if path == "/Plugin.Activate":
                return {"Implements": ["NetworkDriver", "IpamDriver"]}
            method = getattr(self, ("ipam_" if kind == "IpamDriver" else "net_") + call, None)
            if method is None:
                raise ValueError(f"no call {path}")
            found: JSON = method(body)
            return found

    # ── NetworkDriver ───────────────────────────────────────────────────────────────────────────────────────────

    def net_GetCapabilities(self, body: JSON) -> JSON:
        return {"Scope": "global" if "GlobalScope" in self.flags else "local", "ConnectivityScope": "global"}

    def net_CreateNetwork(self, body: JSON) -> JSON:
        id, options = body["NetworkID"], (body.get("Options") or {}).get(GENERIC) or {}
        if "refuse" in options:
            raise ValueError(options["refuse"])
        self.networks[id] = options
        try:
            self._make(id, body)
        except OSError:
            self.net_DeleteNetwork(body)
            raise
        return {}

    @staticmethod
    def _make(id: str, body: JSON) -> None:
        with Netlink() as host:
            if host.link(_bridge(id)) is None:
                host.batch([netlink.add_bridge(_bridge(id))])
            link = host.link(_bridge(id))
            assert link is not None
            for data in (body.get("IPv4Data") or []) + (body.get("IPv6Data") or []):
                if data.get("Gateway"):
                    gateway = ip_interface(data["Gateway"])
                    host.attempt([netlink.add_address(link.ifindex, gateway.ip, gateway.network.prefixlen)])
            host.batch([netlink.set_link(link.ifindex, up=True)])

    def net_DeleteNetwork(self, body: JSON) -> JSON:
        self.networks.pop(body["NetworkID"], None)
        self._delete(_bridge(body["NetworkID"]))
        return {}

    def net_AllocateNetwork(self, body: JSON) -> JSON:
        return {"Options": body.get("Options") or {}}

    def net_FreeNetwork(self, body: JSON) -> JSON:
        return {}

    def net_CreateEndpoint(self, body: JSON) -> JSON:
        options = self.networks.get(body["NetworkID"], {})
        given = body.get("Interface") or {}
        self.endpoints[body["EndpointID"]] = {"network": body["NetworkID"], "gateway": ""}
        added: JSON = {}
        if "interface" in options:
            added = json.loads(options["interface"])
        elif not given.get("MacAddress"):
            added = {"MacAddress": "02:77:" + ":".join(body["EndpointID"][n : n + 2] for n in range(0, 8, 2))}
        return {"Interface": added} if added else {}

    def net_EndpointOperInfo(self, body: JSON) -> JSON:
        return {"Value": {"tests.plugin": body["EndpointID"][:4]}}

    def net_DeleteEndpoint(self, body: JSON) -> JSON:
        self.endpoints.pop(body["EndpointID"], None)
        self._delete(f"tph{body['EndpointID'][:8]}")
        return {}

    def net_Join(self, body: JSON) -> JSON:
        id, endpoint = body["NetworkID"], body["EndpointID"]
        options = self.networks.get(id, {})
        ours, theirs = f"tph{endpoint[:8]}", f"tpc{endpoint[:8]}"
        with Netlink() as host:
            link = host.link(_bridge(id))
            host.batch([netlink.add_veth(ours, theirs, master=link.ifindex if link else 0, up=True)])
        answer: JSON = {"InterfaceName": {"SrcName": theirs, "DstPrefix": options.get("prefix", "eth")}}
        with Netlink() as host:
            for prefix in host.addresses():
                if link and prefix.ifindex == link.ifindex and not prefix.address.is_link_local:
                    answer["Gateway" if prefix.address.version == 4 else "GatewayIPv6"] = str(prefix.address)
        answer.update(json.loads(options.get("join", "{}")))
        return answer

    def net_Leave(self, body: JSON) -> JSON:
        self._delete(f"tph{body['EndpointID'][:8]}")
        return {}

    def net_DiscoverNew(self, body: JSON) -> JSON:
        return {}

    net_DiscoverDelete = net_ProgramExternalConnectivity = net_RevokeExternalConnectivity = net_DiscoverNew

    @staticmethod
    def _delete(name: str) -> None:
        with Netlink() as host:
            host.attempt([netlink.delete_link(name)])

    # ── IpamDriver ──────────────────────────────────────────────────────────────────────────────────────────────

    def ipam_GetCapabilities(self, body: JSON) -> JSON:
        return {name: True for name in ("RequiresMACAddress", "RequiresRequestReplay") if name in self.flags}

    def ipam_GetDefaultAddressSpaces(self, body: JSON) -> JSON:
        return {"LocalDefaultAddressSpace": "here", "GlobalDefaultAddressSpace": "everywhere"}

    def ipam_RequestPool(self, body: JSON) -> JSON:
        options = body.get("Options") or {}
        if "refuse" in options:
            raise ValueError(options["refuse"])
        pool = body.get("Pool") or ("fd77::/64" if body.get("V6") else options.get("pool", POOL))
        id = f"{body['AddressSpace']}/{pool}"
        self.pools.setdefault(id, (pool, set()))
        return {"PoolID": id, "Pool": pool, "Data": {"tests.pool": pool}}

    def ipam_ReleasePool(self, body: JSON) -> JSON:
        self.pools.pop(body["PoolID"], None)
        return {}

    def ipam_RequestAddress(self, body: JSON) -> JSON:
        pool, taken = self.pools[body["PoolID"]]
        subnet = ip_network(pool)
        asked = body.get("Address")
        if asked and asked in taken:
            raise ValueError(f"{asked} is taken")
        gateway = (body.get("Options") or {}).get("RequestAddressType") == "com.docker.network.gateway"
        first = 254 if gateway else 100  # not what an engine would choose
        base = int(subnet.network_address)
        number = next(n for n in range(first, 1, -1) if str(subnet.network_address + n) not in taken)
        address = asked or str(type(subnet.network_address)(base + number))
        taken.add(address)
        return {"Address": f"{address}/{subnet.prefixlen}", "Data": {}}

    def ipam_ReleaseAddress(self, body: JSON) -> JSON:
        if body["PoolID"] in self.pools:
            self.pools[body["PoolID"]][1].discard(body["Address"])
        return {}


def _bridge(network_id: str) -> str:
    return f"tpb{network_id[:8]}"


def _fault(path: str, call: str) -> str:
    with contextlib.suppress(OSError, ValueError):
        with open(path) as file:
            return str(json.load(file).get(call, ""))
    return ""


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """One thread for each connection."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64


def server(socket_path: str, journal: str, flags: set[str], die: Callable[[], object] = lambda: os._exit(3)) -> Server:
    """Listen: calls are answered by the server's `serve_forever`. die: what the fault "die" does."""
    plugin = Plugin(flags)
    writing = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def address_string(self) -> str:
            return "engine"

        def log_message(self, format: str, *args: Any) -> None:
            return None

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
                raw = b""
                while length := int(self.rfile.readline(), 16):
                    raw += self.rfile.read(length)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                raw = self.rfile.read(size)
            body = json.loads(raw) if raw else None
            fault = _fault(f"{socket_path}.fault", self.path.strip("/"))
            status, answer = 200, b""
            try:
                if fault == "die":
                    die()
                    self.close_connection = True
                    return
                if fault not in ("", "hang", "wrong JSON", "huge", "list") and not fault.startswith("{"):
                    raise ValueError(fault)
                answer = json.dumps(plugin.answer(self.path, body or {})).encode()
            except Exception as error:
                status, answer = 500, json.dumps({"Err": str(error)}).encode()
            line = {"call": self.path, "headers": dict(self.headers), "body": body, "answer": json.loads(answer)}
            with writing, open(journal, "a") as file:
                file.write(json.dumps(line) + "\n")
            if fault == "hang":
                threading.Event().wait(600)
            if fault == "wrong JSON":
                answer = b'{"Value": '
            if fault == "huge":
                answer = b'{"Err": "' + b"x" * (9 << 20) + b'"}'
            if fault == "list":
                answer = b'["no object"]'
            if fault.startswith("{"):
                answer = fault.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.docker.plugins.v1.1+json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(answer)

    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket_path)
    return Server(socket_path, Handler)


class PluginThread:
    """The plugin in a thread of this process, under a name of an engine's. `fault` says what is wrong with a call."""

    def __init__(self, exec_root: Path, name: str, *flags: str) -> None:
        self.name = name
        self._flags = set(flags)
        self._socket = exec_root / "plugins" / f"{name}.sock"
        self._socket.parent.mkdir(parents=True, exist_ok=True)
        self.journal = self._socket.with_suffix(".journal")
        self.journal.touch()
        self._server: Server | None = None
        self._thread = threading.Thread()
        self.start()

    def start(self) -> None:
        """Begin to serve, with nothing in memory, unless it does."""
        if self._server is None:
            self._server = server(str(self._socket), str(self.journal), self._flags, self.stop)
            self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
            self._thread.start()

    def stop(self) -> None:
        """Die: nobody listens any more, and the socket's file stays."""
        if self._server is not None:
            gone, self._server = self._server, None
            gone.shutdown()
            gone.server_close()
            self._thread.join()

    def fault(self, **calls: str) -> None:
        """Say what is wrong with which call (`NetworkDriver__Join="hang"`); nothing: all is well."""
        file = Path(f"{self._socket}.fault")
        new = file.with_suffix(".new")
        new.write_text(json.dumps({call.replace("__", "."): fault for call, fault in calls.items()}))
        new.rename(file)

    def calls(self) -> list[JSON]:
        """Return what was asked, and answered when all was well: `call` without its slash, `body`, `answer`."""
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [{**line, "call": line["call"].strip("/")} for line in lines]

    def links(self) -> list[str]:
        """Return which links it has left on the host."""
        bodies = [call["body"] or {} for call in self.calls()]
        made = [_bridge(body["NetworkID"]) for body in bodies if "NetworkID" in body]
        made += [f"tph{body['EndpointID'][:8]}" for body in bodies if "EndpointID" in body]
        with Netlink() as host:
            there = {link.name for link in host.links()}
        return sorted(there & set(made))

    def forget(self) -> None:
        """Take away what it has left, and forget what it was asked."""
        with Netlink() as host:
            host.attempt([netlink.delete_link(name) for name in self.links()])
        self.journal.write_text("")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server(sys.argv[1], sys.argv[2], set(sys.argv[3:])).serve_forever()
