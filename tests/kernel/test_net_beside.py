"""Beside the firewalls of others: ufw and firewalld themselves, and the administrator's own chain."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from sampan.linux.nftables import OUTPUT_HANDLE
from sampan.spec.engine_api.network import NetworkCreateRequest
from tests.kernel.net_host import HOST4, LAN4, Host, attach, container_id, end, on_fake_host, run, spawn, until
from tests.support.machine import lacks

BUS = (
    '<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context="default">'
    '<allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_destination="*"/>'
    '<allow receive_sender="*"/></policy></busconfig>'
)
MENDED_S, START_S = 1.0, 30


async def begun(condition: Callable[[], bool]) -> None:
    """Wait for another program, which may take its time to start."""
    async with asyncio.timeout(START_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def reached(host: Host) -> None:
    """The published port is reached again, soon."""
    since = time.monotonic()
    while True:
        try:
            async with asyncio.timeout(0.2):
                assert await host.ask(host.lan, HOST4, 8080) == LAN4
                return
        except OSError:  # TimeoutError, too
            assert time.monotonic() < since + MENDED_S, host.nft.run("list ruleset")
            await asyncio.sleep(0.01)


@on_fake_host
async def test_the_administrators_chain_is_never_flushed(host: Host) -> None:
    what = 'ip saddr 192.0.2.9 meta l4proto tcp ct original proto-dst 8080 drop comment "mine"'
    async with host.networks() as networks:
        web = await attach(networks, ports={"80/tcp": ["8080", "8081"]})
        host.serve(web.netns, 80)
        assert await host.ask(host.lan, HOST4, 8080) == LAN4
        host.nft.run(f"add rule inet sampan-admin forward {what}")
        assert await host.dropped(host.lan, HOST4, 8080)
        await networks._fabric.firewall.apply()
        assert await host.dropped(host.lan, HOST4, 8080)
        assert await host.ask(host.lan, HOST4, 8081) == LAN4
        run("nft", "flush", "table", "inet", "sampan0")
        await until(lambda: "mine" in host.nft.run("list ruleset") and "jump published" in host.nft.run("list ruleset"))
        assert await host.dropped(host.lan, HOST4, 8080)
        await networks.detach(container_id("web"))
    async with host.networks():
        assert "mine" in host.nft.run("list table inet sampan-admin"), "it outlives the engine"
        host.nft.run("flush chain inet sampan-admin forward")
    assert "sampan-admin" not in host.nft.run("list tables"), "an empty one goes with the engine"


def program(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        lacks(f"no {name}")
    assert path is not None
    return path


@on_fake_host
async def test_beside_ufw(host: Host) -> None:
    ufw = program("ufw")
    shutil.copytree("/etc/ufw", f"{host.directory}/ufw")
    run("mount", "--bind", f"{host.directory}/ufw", "/etc/ufw")
    async with host.networks() as networks:
        web = await attach(networks, ports={"80/tcp": "8080"})
        host.serve(web.netns, 80)
        for command in (["--force", "enable"], ["reload"], ["--force", "disable"]):
            run(ufw, *command)
            await reached(host)
            closed = "policy drop" in host.nft.run("list chain ip filter FORWARD")
            assert closed or command[-1] == "disable"
        await networks.detach(container_id("web"))
    run("umount", "/etc/ufw")


@on_fake_host
async def test_ufw_decides_about_ports_that_a_process_carries(host: Host) -> None:
    """moby 4737, 22054: `ufw deny` closes a published port, `allow` opens it; translated ones it never sees."""
    ufw = program("ufw")
    shutil.copytree("/etc/ufw", f"{host.directory}/ufw")
    run("mount", "--bind", f"{host.directory}/ufw", "/etc/ufw")
    async with host.networks(port_mapper="proxy") as networks:
        await networks.create(NetworkCreateRequest(name="nat", options={"sampan.port_mapper": "nat"}))
        for name, mode, port in (("web", "default", "8080"), ("translated", "nat", "8090")):
            sandbox = await attach(networks, name, mode=mode, ports={"80/tcp": port})
            host.serve(sandbox.netns, 80)
        gateway = networks.inspect("bridge")["IPAM"]["Config"][0]["Gateway"]
        run(ufw, "--force", "enable")  # its default: deny incoming
        for number, closed in ((8080, True), (8090, False)):
            assert await host.dropped(host.lan, HOST4, number) is closed
        run(ufw, "allow", "8080/tcp")
        assert await host.ask(host.lan, HOST4, 8080) == gateway
        run(ufw, "delete", "allow", "8080/tcp")
        run(ufw, "deny", "8090/tcp")
        assert await host.dropped(host.lan, HOST4, 8080)
        assert await host.ask(host.lan, HOST4, 8090) == LAN4
        run(ufw, "--force", "disable")
        assert await host.ask(host.lan, HOST4, 8080) == gateway
        for name in ("web", "translated"):
            await networks.detach(container_id(name))
        await networks.remove("nat")
    run("umount", "/etc/ufw")


@on_fake_host
async def test_beside_firewalld(host: Host) -> None:
    firewalld, client, bus = program("firewalld"), program("firewall-cmd"), program("dbus-daemon")
    socket, config = f"{host.directory}/bus", f"{host.directory}/firewalld"
    os.makedirs(config)
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={socket}"
    Path(f"{socket}.conf").write_text(BUS.format(socket))
    dbus = spawn(bus, f"--config-file={socket}.conf", "--nofork")
    await begun(lambda: os.path.exists(socket))
    async with host.networks() as networks:
        web = await attach(networks, ports={"80/tcp": "8080"})
        host.serve(web.netns, 80)
        daemon = spawn(firewalld, "--nofork", "--nopid", "--system-config", config, "--log-target", "console")
        await begun(lambda: _answers(client))
        assert "reject" in host.nft.run("list chain inet firewalld filter_FORWARD")
        await reached(host)
        listing = "list chain inet firewalld filter_FORWARD"
        before = host.nft.run(listing, flags=OUTPUT_HANDLE)
        daemon.send_signal(signal.SIGHUP)  # a reload, for which firewall-cmd would want polkit
        await begun(lambda: _standing(host, listing) not in ("", before))
        await reached(host)
        end(daemon)
        await networks.detach(container_id("web"))
    end(dbus)


def _answers(client: str) -> bool:
    return subprocess.run([client, "--state"], capture_output=True, check=False).returncode == 0


def _standing(host: Host, listing: str) -> str:
    try:
        return host.nft.run(listing, flags=OUTPUT_HANDLE)
    except OSError:
        return ""
