"""Record what each version of the API sends and gets: `python -m tests.api.record_versions SOCKET
[REQUEST ...] > tests/api/versions.json`.

One request of every kind is made at each version from 1.24 to the newest. What is kept of an answer is its shape: the
path of each value with its type, and the value itself where a version decides about it (`EXACT`). In the file stands
how the shape differs from that of the newest version, so that the engines need not be alike in anything else. The
answers in the repository are those of Docker Engine 28.5.2.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.support import busybox
from tests.support.engine import Answer, Engine

NAME = "versions"
MINORS = range(24, 52)
NEWEST = "1.51"
MIB = 1024 * 1024
MAC = "02:42:0a:61:00:44"
Shape = dict[str, Any]
NEVER = {"label": ["nobody-versions"]}
EXACT = {
    *("IpcMode", "CgroupnsMode", "AutoRemove", "ConsoleSize", "KernelMemory", "KernelMemoryTCP", "Annotations", "Init"),
    *("PidsLimit", "StartInterval", "CreateMountpoint", "NonRecursive", "ReadOnlyNonRecursive", "MacAddress"),
    *("ReadOnlyForceRecursive", "EnableIPv4", "EnableIPv6", "Containers", "SharedSize", "message", "status", "type"),
    *("OomKillDisable", "OomScoreAdj", "MemorySwappiness", "Capabilities", "DeviceRequests", "Sysctls", "Runtime"),
    *("StopTimeout", "Shell", "Healthcheck", "Platform", "Ulimits", "Subpath", "BuilderVersion", "Swarm"),
}
CREATED: dict[str, Any] = {
    "Image": NAME, "Cmd": ["sleep", "100"], "StopTimeout": 5, "Shell": ["/bin/sh"], "MacAddress": MAC,
    "Healthcheck": {"Test": ["NONE"], "StartInterval": 10**9},
    "HostConfig": {
        "AutoRemove": True, "ConsoleSize": [10, 20], "KernelMemory": 10 * MIB, "KernelMemoryTCP": 10 * MIB,
        "Annotations": {"a": "b"}, "PidsLimit": 50, "IpcMode": "", "CgroupnsMode": "", "Init": True,
        "OomScoreAdj": 3, "NetworkMode": "versions", "Sysctls": {"net.ipv4.ip_default_ttl": "70"},
        "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 100}],
        "Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "/b",
                    "BindOptions": {"CreateMountpoint": True, "NonRecursive": True, "ReadOnlyNonRecursive": True}}],
    },
    "NetworkingConfig": {"EndpointsConfig": {"versions": {"MacAddress": MAC}}},
}  # fmt: skip


class Room:
    """An engine with an image, a running container, a network, a volume and an exec, all named `versions`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        engine.request("POST", "/images/create", busybox.root_tar(), fromSrc="-", repo=NAME, version=NEWEST,
                       headers={"Content-Type": "application/x-tar"})  # fmt: skip
        self.call("POST", "/networks/create", {"Name": NAME, "Internal": True})
        self.call("POST", "/volumes/create", {"Name": NAME})
        host = {"Mounts": [{"Type": "volume", "Source": NAME, "Target": "/v"}], "NetworkMode": NAME}
        body = {"Image": NAME, "Cmd": ["sleep", "1000"], "HostConfig": host}
        self.container = self.call("POST", "/containers/create", body, name=NAME)["Id"]
        self.call("POST", f"/containers/{NAME}/start")
        self.exec = self.call("POST", f"/containers/{NAME}/exec", {"Cmd": ["true"]})["Id"]

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        answer = self.engine.request(method, path, body, version=NEWEST, **query)
        assert answer.status < 400, (path, answer.raw)
        return answer.json if answer.raw.startswith((b"{", b"[")) else None

    def close(self) -> None:
        nouns = (f"containers/{NAME}", f"networks/{NAME}", f"volumes/{NAME}", "volumes/versions4", f"images/{NAME}")
        for path in nouns:
            self.engine.request("DELETE", f"/{path}", version=NEWEST, force="1")


Ask = Callable[[Room, str], Answer]


def get(path: str, **query: Any) -> Ask:
    return lambda room, version: room.engine.request("GET", path, version=version, **query)


def post(path: str, body: Any = None, **query: Any) -> Ask:
    return lambda room, version: room.engine.request("POST", path, body, version=version, **query)


def create(changes: dict[str, Any], host: dict[str, Any] | None = None, **query: Any) -> Ask:
    """Create at a version; what became of it is shown by the newest."""

    def ask(room: Room, version: str) -> Answer:
        body = {"Image": NAME, "Cmd": ["true"], **changes}
        if host is not None:
            body["HostConfig"] = host
        answer = room.engine.request("POST", "/containers/create", body, version=version, **query)
        if answer.status != 201:
            return answer
        id = answer.json["Id"]
        found = room.engine.request("GET", f"/containers/{id}/json", version=NEWEST)
        room.engine.request("DELETE", f"/containers/{id}", version=NEWEST, force="1", v="1")
        return found

    return ask


def updated(room: Room, version: str) -> Answer:
    room.call("POST", f"/containers/{NAME}/update", {"PidsLimit": 77})
    body = {"PidsLimit": 33, "KernelMemory": 10 * MIB}
    room.engine.request("POST", f"/containers/{NAME}/update", body, version=version)
    return room.engine.request("GET", f"/containers/{NAME}/json", version=NEWEST)


def executed(start: dict[str, Any], **body: Any) -> Ask:
    def ask(room: Room, version: str) -> Answer:
        asked = {"Cmd": ["true"], "AttachStdout": True, **body}
        id = room.engine.request("POST", f"/containers/{NAME}/exec", asked, version=version).json["Id"]
        return room.engine.request("POST", f"/exec/{id}/start", start, version=version,
                                   headers={"Connection": "Upgrade", "Upgrade": "tcp"})  # fmt: skip

    return ask


def network(**body: Any) -> Ask:
    def ask(room: Room, version: str) -> Answer:
        answer = room.engine.request("POST", "/networks/create", {"Name": "versions2", **body}, version=version)
        if answer.status != 201:
            return answer
        found = room.engine.request("GET", "/networks/versions2", version=version)
        room.engine.request("DELETE", "/networks/versions2", version=NEWEST)
        return found

    return ask


def committed(room: Room, version: str) -> Answer:
    body: dict[str, Any] = {"Healthcheck": {"Test": ["NONE"], "StartInterval": 10**9}}
    query: dict[str, Any] = {"container": NAME, "repo": "versions2"}
    answer = room.engine.request("POST", "/commit", body, version=version, **query)
    if answer.status == 201:
        answer = room.engine.request("GET", "/images/versions2/json", version="1.44")
        room.engine.request("DELETE", "/images/versions2", version=NEWEST)
    return answer


def built(**query: Any) -> Ask:
    def ask(room: Room, version: str) -> Answer:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            text = b"FROM versions\nENV a=b\n"
            info = tarfile.TarInfo("Dockerfile")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
        asked = {"t": "versions3", **query}
        answer = room.engine.request("POST", "/build", out.getvalue(), version=version, **asked,
                                     headers={"Content-Type": "application/x-tar"})  # fmt: skip
        room.engine.request("DELETE", "/images/versions3", version=NEWEST, force="1")
        return Answer(answer.status, answer.headers, answer.raw if answer.status >= 400 else b"{}")

    return ask


def usage(**query: Any) -> Ask:
    """Of the disk usage only what a version has, as other objects than ours are in it."""

    def ask(room: Room, version: str) -> Answer:
        answer = room.engine.request("GET", "/system/df", version=version, **query)
        kept: dict[str, Any] = {key: True for key in answer.json if key != "DataRoot"}
        kept["sizes"] = sorted({key for image in answer.json.get("Images") or () for key in image if "Size" in key})
        return Answer(answer.status, answer.headers, json.dumps(kept).encode())

    return ask


def only(*keys: str) -> str:
    return json.dumps({key: [NAME] for key in keys})


PLATFORM = '{"os":"linux","architecture":"s390x"}'
NO_CACHE = '{"id":["nobody-versions"]}'
REQUESTS: dict[str, Ask] = {
    "ping": get("/_ping"),
    "version": get("/version"),
    "info": get("/info"),
    "df": usage(),
    "df type": usage(type="volume"),
    "events": lambda room, version: room.engine.request(
        "GET", "/events", version=version, since="1", until=str(int(time.time())), filters=only("container")),
    "auth": post("/auth", {"username": "u", "password": "p", "serveraddress": "127.0.0.1:1"}),
    "containers": get("/containers/json", all="1", filters=only("name")),
    "container": get(f"/containers/{NAME}/json"),
    "container with size": get(f"/containers/{NAME}/json", size="1"),
    "stats": get(f"/containers/{NAME}/stats", stream="0", **{"one-shot": "1"}),
    "top": get(f"/containers/{NAME}/top"),
    "logs": get(f"/containers/{NAME}/logs", stdout="1"),
    "changes": get(f"/containers/{NAME}/changes"),
    "wait for a condition": post("/containers/nobody/wait", condition="nonsense"),
    "wait": post("/containers/nobody/wait"),
    "start with a body": post("/containers/nobody/start", {"HostConfig": {}}),
    "kill without a signal": post("/containers/nobody/kill"),
    "resize without a size": post("/containers/nobody/resize"),
    "stop with a signal": post("/containers/nobody/stop", signal="NOPE"),
    "containers prune": post("/containers/prune", filters=json.dumps(NEVER)),
    "create": create(CREATED, CREATED["HostConfig"]),
    "create with nothing": create({}, {}),
    "create without a host": create({}),
    "create for a platform": create({}, platform="linux/s390x"),
    "create for a bad platform": create({}, platform="x/y/z/w"),
    "create at two networks": create({"NetworkingConfig": {"EndpointsConfig": {"xb": {}, "xa": {}}}}),
    "create with little kernel memory": create({}, {"KernelMemory": 1000}),
    "create with a MAC address": create({"MacAddress": MAC}, {"NetworkMode": NAME}),
    "create with an endpoint's MAC address": create(
        {"NetworkingConfig": {"EndpointsConfig": {NAME: {"MacAddress": MAC}}}}, {"NetworkMode": NAME}),
    "create with a forced read-only mount": create({}, {"Mounts": [
        {"Type": "bind", "Source": "/tmp", "Target": "/x", "BindOptions": {"ReadOnlyForceRecursive": True}}]}),
    "create with a missing source": create({}, {"Mounts": [{
        "Type": "bind", "Source": "/versions-nothing", "Target": "/x", "BindOptions": {"CreateMountpoint": True}}]}),
    "create with a subpath": create({}, {"Mounts": [
        {"Type": "volume", "Source": NAME, "Target": "/x", "VolumeOptions": {"Subpath": "a"}}]}),
    "create with an image mount": create({}, {"Mounts": [{"Type": "image", "Source": NAME, "Target": "/x"}]}),
    "create with an image's subpath": create({}, {"Mounts": [
        {"Type": "image", "Source": NAME, "Target": "/x", "ImageOptions": {"Subpath": "a"}}]}),
    "create with tmpfs options": create({}, {"Mounts": [
        {"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Options": [["noexec"]]}}]}),
    "create with an interface's sysctl": create(
        {}, {"NetworkMode": NAME, "Sysctls": {"net.ipv4.conf.eth0.log_martians": "1"}}),
    "create with no limit of pids": create({}, {"PidsLimit": 0}),
    "create with capabilities": create({}, {"Capabilities": ["CAP_KILL"]}),
    "create with a gateway priority": create(
        {"NetworkingConfig": {"EndpointsConfig": {NAME: {"GwPriority": 5}}}}, {"NetworkMode": NAME}),
    "update": updated,
    "update with little kernel memory": post(f"/containers/{NAME}/update", {"KernelMemory": 1000}),
    "exec": lambda room, version: room.engine.request("GET", f"/exec/{room.exec}/json", version=version),
    "exec start": executed({}),
    "exec with a console size": executed({"Tty": True}, Tty=True, ConsoleSize=[10, 20]),
    "exec start with a console size": executed({"ConsoleSize": [10, 20]}),
    "exec with an environment": executed({}, Env=["A=b"]),
    "exec with a directory": executed({}, WorkingDir="/etc"),
    "attach": lambda room, version: room.engine.request(
        "POST", f"/containers/{NAME}/attach", version=version, stdout="1", logs="1",
        headers={"Connection": "Upgrade", "Upgrade": "tcp"}),
    "images": get("/images/json", filters=only("reference")),
    "images by filter": get("/images/json", filter="nobody-versions"),
    "images with sizes": get("/images/json", filters=only("reference"), **{"shared-size": "1"}),
    "images with manifests": get("/images/json", filters=only("reference"), manifests="1"),
    "image": get(f"/images/{NAME}/json"),
    "image with manifests": get(f"/images/{NAME}/json", manifests="1"),
    "image of a platform": get(f"/images/{NAME}/json", platform=PLATFORM),
    "history": get(f"/images/{NAME}/history"),
    "history of a platform": get(f"/images/{NAME}/history", platform=PLATFORM),
    "save of a platform": get(f"/images/{NAME}/get", platform="x"),
    "push of a platform": post("/images/127.0.0.1:1/nobody/push", platform="x"),
    "pull for a platform": post("/images/create", fromImage="NOBODY", platform="x/y/z/w"),
    "search": get("/images/search", term="http://nobody"),
    "remove of a platform": lambda room, version: room.engine.request(
        "DELETE", "/images/nobody", version=version, platforms="x"),
    "images prune": post("/images/prune", filters=json.dumps(NEVER)),
    "distribution": get("/distribution/nobody@x/json"),
    "commit": committed,
    "build": built(),
    "build for a platform": built(platform="x/y/z/w"),
    "build with outputs": built(outputs="{"),
    "build prune": post("/build/prune", filters=NO_CACHE),
    "build prune with bounds": post("/build/prune", **{"reserved-space": "x", "filters": NO_CACHE}),
    "build prune with a reserve": post("/build/prune", **{"keep-storage": "x", "filters": NO_CACHE}),
    "networks": get("/networks", filters=only("name")),
    "network": get(f"/networks/{NAME}"),
    "network create": network(),
    "network create twice": lambda room, version: room.engine.request(
        "POST", "/networks/create", {"Name": NAME}, version=version),
    "network create without IPv4": network(EnableIPv4=False, EnableIPv6=True),
    "network create, bad": network(IPAM={"Config": [{"Subnet": "10.97.7.1/24", "Gateway": "1.2.3.4"}]}),
    "networks prune": post("/networks/prune", filters=json.dumps(NEVER)),
    "connect": post("/networks/versions/connect", {"Container": "nobody"}),
    "volumes": get("/volumes", filters=only("name")),
    "volume": get(f"/volumes/{NAME}"),
    "volume create": post("/volumes/create", {"Name": NAME}),
    "volume create for a cluster": post("/volumes/create", {"Name": "versions4", "ClusterVolumeSpec": {}}),
    "volume update": lambda room, version: room.engine.request("PUT", "/volumes/nobody", {}, version=version),
    "volumes prune": post("/volumes/prune", filters=json.dumps(NEVER)),
    "plugins": get("/plugins"),
    "services": get("/services"),
    "session": post("/session"),
}  # fmt: skip


def flat(value: Any, path: str = "") -> Shape:
    """Return {path: type} of every value, the value itself for `EXACT` names; of a list's items, the first."""
    if isinstance(value, dict):
        found: Shape = {path or ".": "object"}
        for key, item in value.items():
            name = "*" if any(c in key for c in "./ ") or key == NAME or len(key) == 64 else key
            found.update(flat(item, f"{path}.{name}"))
        return found
    if path.rpartition(".")[2] in EXACT and not (isinstance(value, list) and value and isinstance(value[0], dict)):
        chosen = not path.endswith("MacAddress") or value in ("", MAC)
        return {path: value if chosen else "any"}
    if isinstance(value, list):
        return {path or ".": "list", **(flat(value[0], f"{path}[]") if value else {})}
    return {path: type(value).__name__}


def shape(answer: Answer) -> Shape:
    """Return the shape of an answer with its status and content type."""
    text = answer.raw.decode("utf-8", "replace").replace(" b, a", " a, b")  # in an order left to chance
    found: Shape = {"status": answer.status, "type": answer.headers.get("Content-Type", "").partition(";")[0]}
    lines = [line for line in text.splitlines() if line.startswith(("{", "["))]
    if lines and "json" in found["type"]:
        found.update(flat(json.loads(lines[0])))
    if "Builder-Version" in answer.headers:
        found["builder"] = answer.headers["Builder-Version"]
    return found


def differences(room: Room, name: str) -> dict[str, Shape]:
    """Return how each older version's answer differs from the newest's: {"1.24": {path: there, None if absent}}."""
    newest = shape(REQUESTS[name](room, NEWEST))
    found: dict[str, Shape] = {}
    for minor in MINORS[:-1]:
        mine = shape(REQUESTS[name](room, f"1.{minor}"))
        found[f"1.{minor}"] = {
            path: mine.get(path) for path in sorted({*mine, *newest}) if mine.get(path) != newest.get(path)
        }
    return found


def ranges(found: dict[str, Shape]) -> dict[str, Shape]:
    """Join neighbours that are alike: {"1.24-1.43": …}."""
    joined: list[tuple[str, str, Shape]] = []
    for version, difference in found.items():
        if joined and joined[-1][2] == difference:
            joined[-1] = (joined[-1][0], version, difference)
        else:
            joined.append((version, version, difference))
    return {f"{first}-{last}": difference for first, last, difference in joined if difference}


def record(engine: Engine, names: Iterable[str] = REQUESTS) -> dict[str, dict[str, Shape]]:
    room = Room(engine)
    try:
        return {name: ranges(differences(room, name)) for name in names}
    finally:
        room.close()


def main() -> None:
    engine = Engine()
    engine.socket = Path(sys.argv[1])
    found = record(engine, sys.argv[2:] or REQUESTS)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row, sort_keys=True)}" for name, row in found.items())
    print(f"{{\n{lines}\n}}")


if __name__ == "__main__":
    main()
