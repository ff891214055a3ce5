"""The peers of overlay networks: what a file may say, how updates add up, what the kernel has to be told."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.networks import peer_file
from sampan.engine.networks.peer_file import FilePeers
from sampan.engine.networks.peers import BadPeers, Peer, PeerTable, PeerUpdate, decode
from sampan.linux import netlink, vxlan
from sampan.linux.netlink import Message

GOOD = {"vni": 4097, "vtep": "192.0.2.2", "ipv4": "10.9.0.3"}


def file(*entries: Any) -> bytes:
    return json.dumps({"peers": list(entries)}).encode()


def test_a_file_says_who_is_where() -> None:
    (peer,) = decode(file(GOOD | {"ipv6": "fd00::3", "names": ["web", "w"]}))
    assert (peer.vni, str(peer.vtep), peer.mac) == (4097, "192.0.2.2", "02:42:0a:09:00:03")
    assert [str(a) for a in peer.addresses] == ["10.9.0.3", "fd00::3"] and peer.names == ("web", "w")
    assert decode(file(GOOD | {"mac": "02:AA:00:00:00:01"}))[0].mac == "02:aa:00:00:00:01"
    assert str(decode(file(GOOD | {"vtep": "2001:db8::1"}))[0].vtep) == "2001:db8::1"
    assert decode(file(GOOD, GOOD | {"vni": 4098})) and decode(file()) == ()


DAMAGED: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b'{"peers": {}}',
    b'{"peers": [], "other": 1}',
    b'{"peers": [7]}',
    b"\xff\xfe",
    b'{"peers": ' + b"[" * 100000,
    file(GOOD | {"vni": 0}),
    file(GOOD | {"vni": 1 << 24}),
    file(GOOD | {"vni": "4097"}),
    file(GOOD, GOOD | {"vtep": "2001:db8::1", "ipv4": "10.9.0.4"}),
    file(GOOD | {"vtep": "::"}),
    file(GOOD | {"vtep": "fe80::1%eth0"}),
    file(GOOD | {"vtep": "224.0.0.1"}),
    file(GOOD | {"vtep": "127.0.0.1"}),
    file(GOOD | {"vtep": "host"}),
    file(GOOD | {"ipv4": "10.9.0.300"}),
    file(GOOD | {"ipv4": "fd00::1"}),
    file(GOOD | {"ipv6": "10.9.0.3"}),
    file(GOOD | {"ipv4": ""}),
    file(GOOD | {"ipv4": "", "mac": "02:00:00:00:00:01"}),
    file(GOOD | {"mac": "02:00:00:00:00"}),
    file(GOOD | {"mac": "03:00:00:00:00:01"}),
    file(GOOD | {"mac": "ff:ff:ff:ff:ff:ff"}),
    file(GOOD | {"mac": "00:00:00:00:00:00"}),
    file(GOOD | {"names": "web"}),
    file(GOOD | {"names": [1]}),
    file(GOOD | {"name": "web"}),
    file(GOOD, GOOD),
    file(GOOD, GOOD | {"mac": "02:00:00:00:00:01"}),
    file(GOOD, GOOD | {"ipv4": "10.9.0.4", "mac": "02:42:0a:09:00:03"}),
    file({k: v for k, v in GOOD.items() if k != "vtep"}),
]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_what_is_not_the_form_is_damaged(text: bytes) -> None:
    with pytest.raises(BadPeers):
        decode(text)


def peer(rng: random.Random) -> Peer:
    address = IPv4Address(f"10.9.0.{rng.randrange(1, 8)}")
    mac = (b"\x02\x42" + address.packed).hex(":")
    vtep = IPv4Address(f"192.0.2.{rng.randrange(1, 4)}")
    return Peer(vni=rng.randrange(1, 4), vtep=vtep, mac=mac, addresses=(address,))


def test_updates_add_up_and_say_where_something_changed() -> None:
    rng = random.Random(7)
    table, model = PeerTable(), dict[tuple[int, str], Peer]()
    for _ in range(2000):
        put = {(p.vni, p.mac): p for p in (peer(rng) for _ in range(rng.randrange(4)))}
        gone = tuple((p.vni, p.mac) for p in (peer(rng) for _ in range(rng.randrange(3))))
        whole = rng.random() < 0.1
        before = dict(model)
        if whole:
            model.clear()
        for key in gone:
            model.pop(key, None)
        model |= put
        changed = table.apply(PeerUpdate(put=tuple(put.values()), gone=gone, whole=whole))
        for vni in range(1, 4):
            assert {p.mac: p for p in table.of(vni)} == {mac: p for (v, mac), p in model.items() if v == vni}
            differs = {k: p for k, p in before.items() if k[0] == vni} != {
                k: p for k, p in model.items() if k[0] == vni
            }
            assert (vni in changed) == differs
            for address in (ip_address(f"10.9.0.{n}") for n in range(1, 8)):
                found = table.having(vni, address)
                assert found == next((p for p in table.of(vni) if address in p.addresses), None)


def applied(have: vxlan.Known, messages: list[Message]) -> vxlan.Known:
    """A model of the kernel: forwarding of the tunnel and of the bridge must agree."""
    own, bridge, neighbours = dict(have.forwarding), dict(have.forwarding), dict(have.neighbours)
    for message in messages:
        family, _, _, flags, _ = vxlan._NDMSG.unpack_from(message.body)
        found = netlink.attributes(message.body, vxlan._NDMSG.size)
        mac = found.get(netlink.NDA_LLADDR, b"").hex(":")
        if family == 7:
            end = IPv4Address(found[netlink.NDA_DST])
            for flag, entries in ((vxlan.NTF_SELF, own), (vxlan.NTF_MASTER, bridge)):
                if flags & flag and message.type == netlink.RTM_NEWNEIGH:
                    entries[mac] = end
                elif flags & flag and (flag == vxlan.NTF_MASTER or entries.get(mac) == end):
                    entries.pop(mac, None)
        elif message.type == netlink.RTM_NEWNEIGH:
            neighbours[ip_address(found[netlink.NDA_DST])] = mac
        else:
            del neighbours[ip_address(found[netlink.NDA_DST])]
    assert own.keys() == bridge.keys()
    return vxlan.Known(own, neighbours)


def test_the_difference_leads_from_any_state_to_any_other() -> None:
    rng = random.Random(3)

    def state() -> vxlan.Known:
        there = {p.mac: p for p in (peer(rng) for _ in range(rng.randrange(9)))}.values()
        return vxlan.Known({p.mac: p.vtep for p in there}, {a: p.mac for p in there for a in p.addresses})

    for _ in range(500):
        have, want = state(), state()
        messages = vxlan.changes(3, have, want)
        assert applied(have, messages) == want
        assert bool(messages) == (have != want)


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def watching(path: Path) -> AsyncIterator[asyncio.Queue[int]]:
    """The number of peers of each update."""
    told: asyncio.Queue[int] = asyncio.Queue()

    async def watch() -> None:
        async for update in FilePeers(str(path)).watch():
            assert update.whole
            told.put_nowait(len(update.put))

    task = asyncio.get_running_loop().create_task(watch())
    yield told
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def warned(caplog: pytest.LogCaptureFixture) -> None:
    while not caplog.messages:  # noqa: ASYNC110 - a log tells nobody
        await asyncio.sleep(0.01)


def replaced(path: Path, text: bytes) -> None:
    path.with_suffix(".new").write_bytes(text)
    os.replace(path.with_suffix(".new"), path)


@pytest.mark.asyncio
async def test_a_file_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "peers"
    async with watching(path) as told, asyncio.timeout(10):
        await warned(caplog)  # it is missing: nobody is told of anything
        assert "No such file" in caplog.text and told.empty()
        replaced(path, file(GOOD))
        assert await told.get() == 1
        for damaged in (b"{", b" " * (peer_file.MOST_BYTES + 1)):
            caplog.clear()
            replaced(path, damaged)
            await warned(caplog)
            assert "what was known stays" in caplog.text and told.empty()
        caplog.clear()
        path.unlink()
        os.mkfifo(path.with_suffix(".fifo"))
        os.rename(path.with_suffix(".fifo"), path)
        await warned(caplog)
        assert told.empty()
        path.unlink()
        path.write_bytes(file(GOOD, GOOD | {"ipv4": "10.9.0.4"}))
        while await told.get() != 2:
            pass


@pytest.mark.asyncio
async def test_a_directory_that_is_made_anew_is_watched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_file, "_AGAIN_S", 0.02)
    path = tmp_path / "d" / "peers"
    async with watching(path) as told, asyncio.timeout(10):
        for count in (1, 2):
            path.parent.mkdir()
            replaced(path, file(*(GOOD | {"ipv4": f"10.9.0.{n + 1}"} for n in range(count))))
            while await told.get() != count:
                pass
            await asyncio.sleep(0.05)
            path.unlink()
            path.parent.rmdir()
