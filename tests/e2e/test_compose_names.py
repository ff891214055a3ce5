"""An application of several containers through the real docker-compose: three networks, and everything by name.

The web application reaches its database and its cache by service name, alias, link and static address, and so does
what shares its network. Names are asked by the resolvers that programs have: glibc (Python), Node, musl, Go, Java,
BusyBox; the programs are the host's own, bound into an empty image. Node, musl and Java are left out where the host has
none. Go's is that of skopeo, which says whom it cannot reach: one of them; it takes no name with an underscore.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.support import clients
from tests.support.engine import Engine, until
from tests.support.machine import lacks
from tests.support.tars import directory, symlink, tar

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root"), pytest.mark.timeout(300)]

PYTHON = "/usr/bin/python3"
WEB = """\
import http.server, json, socket

def said(name, port):
    with socket.create_connection((name, port), 5) as peer:
        return peer.makefile().readline().strip()

class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        names = {"db": 5432, "database": 5432, "db.NAME_back": 5432, "10.91.1.10": 5432, "cache": 6379, "memo": 6379}
        body = json.dumps({name: said(name, port) for name, port in names.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("", 8000), Web).serve_forever()
"""
PROJECT = """\
services:
  db:
    image: busybox
    command: ["nc", "-ll", "-p", "5432", "-e", "echo", "database"]
    healthcheck: {test: ["CMD", "nc", "-w", "1", "127.0.0.1", "5432"], interval: 0.2s, retries: 50}
    networks: {back: {ipv4_address: 10.91.1.10, aliases: [database]}}
    stop_grace_period: 0s
  cache:
    image: busybox
    command: ["nc", "-ll", "-p", "6379", "-e", "echo", "cache"]
    networks: [back]
    stop_grace_period: 0s
  web:
    image: hosts
    command: [PYTHON, /app/web.py]
    volumes: ["/usr:/usr:ro", ".:/app:ro"SETTINGS]
    networks: {front: {aliases: [www]}, back: {}, ops: {}}
    links: ["cache:memo"]
    depends_on: {db: {condition: service_healthy}, cache: {condition: service_started}}
    stop_grace_period: 0s
  beside:
    image: busybox
    command: ["sleep", "1000"]
    network_mode: "service:web"
    stop_grace_period: 0s
  visitor:
    image: busybox
    command: ["sleep", "1000"]
    networks: [front]
    stop_grace_period: 0s
networks:
  front: {}
  back: {internal: true, ipam: {config: [{subnet: 10.91.1.0/24}]}}
  ops: {}
""".replace("PYTHON", PYTHON).replace(
    "SETTINGS", "".join(f', "{path}:{path}:ro"' for path in Path("/etc").glob("java-*-openjdk"))
)
JAVA = """\
public class Probe {
    public static void main(String[] names) throws Exception {
        for (var found : java.net.InetAddress.getAllByName(names[0]))
            if (found instanceof java.net.Inet4Address) System.out.println(found.getHostAddress());
    }
}
"""
GO = """\
GODEBUG=netdns=go skopeo --insecure-policy inspect --tls-verify=false "docker://$0:1/x/y" 2>&1 |
    sed -n 's/.*dial tcp \\([0-9.]*\\):1:.*/\\1/p'
"""
PROBE = """\
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(argv[1], 0, &hints, &found);
    if (error) { puts(gai_strerror(error)); return 1; }
    char text[INET6_ADDRSTRLEN];
    for (; found; found = found->ai_next)
        if (found->ai_family == AF_INET)
            puts(inet_ntop(AF_INET, &((struct sockaddr_in *)found->ai_addr)->sin_addr, text, sizeof text));
    return 0;
}
"""
SAID = {"db": "database", "database": "database", "10.91.1.10": "database", "cache": "cache", "memo": "cache"}


class Application:
    """The project in its directory, and what is done with it."""

    def __init__(self, engine: Engine, where: Path) -> None:
        self.engine = engine
        self.name = f"n{engine.directory.name[-8:].lower().strip('_-')}"
        (where / "compose.yaml").write_text(PROJECT)
        (where / "web.py").write_text(WEB.replace("NAME", self.name))
        plugins = clients.configured(where / "client", buildx=clients.buildx(), compose=clients.compose())
        self.environment = {**os.environ, "DOCKER_HOST": engine.host, **plugins}
        self.command = ["docker", "compose", "-p", self.name, "--project-directory", str(where)]

    def compose(self, *words: str) -> str:
        done = subprocess.run(
            [*self.command, *words], env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def inside(self, service: str, *command: str) -> str:
        return self.engine.cli("docker", "exec", f"{self.name}-{service}-1", *command).stdout

    def addresses(self, service: str) -> list[str]:
        """Return the addresses of all containers of a service on the network `back`."""
        label = {"label": [f"com.docker.compose.service={service}", f"com.docker.compose.project={self.name}"]}
        rows = self.engine.call("GET", "/containers/json", filters=json.dumps(label))
        return sorted(row["NetworkSettings"]["Networks"][f"{self.name}_back"]["IPAddress"] for row in rows)

    def works(self) -> bool:
        """Ask the web application from the outer network, and from its own."""
        wanted = {**SAID, f"db.{self.name}_back": "database"}
        for service, address in (("visitor", "www"), ("visitor", "web"), ("beside", "127.0.0.1")):
            if json.loads(self.inside(service, "wget", "-q", "-O", "-", f"http://{address}:8000/")) != wanted:
                return False
        return True


@pytest.fixture
def application(engine: Engine, tmp_path: Path) -> Iterator[Application]:
    if not Path(PYTHON).exists() or not Path("/lib").is_symlink():
        lacks("no Python below /usr")
    links = (symlink(name, f"usr/{name}") for name in ("bin", "lib", "lib64", "sbin"))
    root = tar(*(directory(name, 0o1777) for name in ("usr", "tmp", "etc", "app", "proc", "sys", "dev")), *links)
    headers = {"Content-Type": "application/x-tar"}
    engine.request("POST", "/images/create", root, headers=headers, fromSrc="-", repo="hosts", tag="latest")
    made = Application(engine, tmp_path)
    try:
        yield made
    finally:
        made.compose("down", "-t", "0")


def resolvers(where: Path) -> dict[str, list[str]]:
    """Return the command of each resolver, to which a name is added; it prints one address a line."""
    find = "import socket, sys; print(*sorted({a[4][0] for a in socket.getaddrinfo(sys.argv[1], 1)}), sep='\\n')"
    found = {"glibc": [PYTHON, "-c", find]}
    if str(shutil.which("node")).startswith("/usr/"):
        script = "require('dns').lookup(process.argv[1], {all: true}, (e, a) => a.forEach(x => console.log(x.address)))"
        found["node"] = [str(shutil.which("node")), "-e", script]
    if shutil.which("musl-gcc"):
        (where / "probe.c").write_text(PROBE)
        subprocess.run(["musl-gcc", "-static", "-o", where / "probe", where / "probe.c"], check=True)
        found["musl"] = ["/app/probe"]
    if shutil.which("javac") and (java := shutil.which("java")):
        (where / "Probe.java").write_text(JAVA)
        subprocess.run(["javac", where / "Probe.java"], check=True)
        found["java"] = [os.path.realpath(java), "-XX:TieredStopAtLevel=1", "-cp", "/app", "Probe"]
    if not shutil.which("skopeo"):
        lacks("no skopeo")
    found["go"] = ["sh", "-c", GO]
    return found


def test_an_application_works_by_name(application: Application, tmp_path: Path) -> None:
    asking = resolvers(tmp_path)
    application.compose("up", "-d", "--wait")
    until(application.works, 20, "the application answers")
    for resolver, command in asking.items():
        for name in ("db", "database", f"db.{application.name}_back")[: 2 if resolver == "go" else 3]:
            assert application.inside("web", *command, name).split() == ["10.91.1.10"], (resolver, name)
        assert application.inside("web", *command, "host.docker.internal").strip(), resolver

    client = docker.DockerClient(base_url=application.engine.host, timeout=60)
    try:
        web = client.containers.get(f"{application.name}-web-1")
        assert web.exec_run([*asking["glibc"], "memo"]).output.decode().split() == application.addresses("cache")
    finally:
        client.close()

    application.compose("up", "-d", "--no-recreate", "--scale", "cache=3")
    many = application.addresses("cache")
    assert len(many) == 3
    for resolver, command in asking.items():
        heard = set(application.inside("web", *command, "cache").split())
        assert (heard and heard < set(many)) if resolver == "go" else heard == set(many), (resolver, heard)
    application.compose("restart", "-t", "0", "db", "cache")
    until(application.works, 20, "it works again")
    application.compose("down", "-t", "0")
    names = [network["Name"] for network in application.engine.call("GET", "/networks")]
    assert sorted(names) == ["bridge", "host", "none"]
    assert not application.engine.call("GET", "/containers/json", all="1")
