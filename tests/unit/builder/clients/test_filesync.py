"""fsutil's packets: what a client's directory becomes, what is asked of it, and what is refused."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.engine.builder.clients import filesync
from sampan.engine.builder.clients.filesync import STREAMED_BYTES, Receiver, read_stat
from sampan.engine.builder.clients.packs import Known, Pack, Packs, Snapshot
from sampan.engine.builder.clients.sending import to_stat
from sampan.errors import Internal, InvalidArgument
from sampan.spec.buildkit.filesync_pb2 import Packet, RawPacket, RawStat, Stat

DIRECTORY, LINK, PIPE, SOCKET = 1 << 31, 1 << 27, 1 << 25, 1 << 24
LISTED = Packet().SerializeToString()
FIN = Packet(type=Packet.PACKET_FIN).SerializeToString()


@pytest.fixture
def pack(tmp_path: Path) -> Iterator[Pack]:
    made = Pack(str(tmp_path))
    yield made
    made.close()


def stat(path: str, mode: int = 0o644, **fields: object) -> bytes:
    return Packet(stat=Stat(path=path, mode=mode, modTime=7, **fields)).SerializeToString()  # type: ignore[arg-type]


def data(number: int, content: bytes) -> bytes:
    return Packet(type=Packet.PACKET_DATA, ID=number, data=content).SerializeToString()


def packets(framed: bytes) -> list[Packet]:
    found, at = [], 0
    while at < len(framed):
        size = int.from_bytes(framed[at + 1 : at + 5], "big")
        found.append(Packet.FromString(framed[at + 5 : at + 5 + size]))
        at += 5 + size
    return found


def transfer(pack: Pack, files: dict[str, bytes], known: Known | None = None) -> tuple[Snapshot, list[int]]:
    """A whole transfer of regular files; returns it and the numbers that were asked for."""
    receiver = Receiver(pack, known or {})
    answers = packets(receiver.take([*(stat(path, size=len(text)) for path, text in files.items()), LISTED]))
    asked = [packet.ID for packet in answers if packet.type == Packet.PACKET_REQ]
    for number in asked:
        text = list(files.values())[number]
        parts = [text[at : at + 32768] for at in range(0, len(text), 32768)]
        answers += packets(receiver.take([*(data(number, part) for part in parts), data(number, b"")]))
    assert answers[-1].type == Packet.PACKET_FIN
    receiver.take([FIN])
    assert receiver.finished
    return receiver.snapshot(), asked


def test_names_that_are_no_utf8_are_taken_as_they_are(pack: Pack) -> None:
    receiver = Receiver(pack, {})
    link = RawPacket(stat=RawStat(path=b"l\xff", mode=LINK | 0o777, linkname=b"caf\xe9")).SerializeToString()
    file = RawPacket(stat=RawStat(path=b"caf\xe9", mode=0o644, size=2)).SerializeToString()
    answers = packets(receiver.take([file, link, stat("plain"), LISTED]))
    assert [packet.ID for packet in answers] == [0]
    receiver.take([data(0, b"hi"), data(0, b""), FIN])
    tree = receiver.snapshot().tree()
    assert [os.fsencode(path) for path in tree.entries()] == [b"caf\xe9", b"l\xff", b"plain"]
    assert os.fsencode(tree.entries()[os.fsdecode(b"l\xff")].link) == b"caf\xe9"
    with tree.open(os.fsdecode(b"caf\xe9")) as opened:
        assert opened.read() == b"hi"
    tree.close()


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x12\x05ab", b"\x12\x04\x0a\x02\xff/"])
def test_what_is_no_packet_is_refused(raw: bytes, pack: Pack) -> None:
    with pytest.raises(InvalidArgument):
        Receiver(pack, {}).take([raw])


def test_a_directory_becomes_a_tree(pack: Pack) -> None:
    receiver = Receiver(pack, {})
    listed = [
        stat("bin", DIRECTORY | 0o755),
        stat("bin/tool", 1 << 23 | 0o755, size=3, uid=1, gid=2, xattrs={"user.a": b"b"}),
        stat("bin/twin", 0o755, linkname="bin/tool"),
        stat("empty"),
        stat("link", LINK | 0o777, linkname="../outside"),
        stat("pipe", PIPE | 0o600),
        stat("sock", SOCKET | 0o600),
        LISTED,
    ]
    asked = packets(receiver.take(listed))
    assert [(packet.type, packet.ID) for packet in asked] == [(Packet.PACKET_REQ, 1)]
    last = packets(receiver.take([data(1, b"abc"), data(1, b"")]))
    assert [packet.type for packet in last] == [Packet.PACKET_FIN]
    tree = receiver.snapshot().tree()
    entries = tree.entries()
    assert {path: entry.kind for path, entry in entries.items()} == {
        "bin": "d", "bin/tool": "f", "bin/twin": "f", "empty": "f", "link": "l", "pipe": "p",
    }  # fmt: skip
    tool = entries["bin/tool"]
    assert (tool.mode, tool.uid, tool.gid, tool.size, tool.mtime_ns) == (0o4755, 1, 2, 3, 7)
    assert tool.xattrs == {"user.a": b"b"}
    assert entries["bin/twin"].hardlink == "bin/tool"
    assert entries["link"].link == "../outside"
    assert tree.open("bin/tool").read() == b"abc"
    assert tree.digest("bin/tool") == "sha256:" + hashlib.sha256(b"abc").hexdigest()
    assert tree.open("empty").read() == b""
    tree.close()


def test_what_is_known_is_not_asked_for_again(pack: Pack) -> None:
    files = {f"f{n}": f"content {n}".encode() for n in range(5)}
    first, asked = transfer(pack, files)
    assert asked == [0, 1, 2, 3, 4]
    older = first.tree()
    second, asked = transfer(pack, {**files, "f2": b"changed", "f9": b"new"}, first.known)
    assert asked == [2, 5]
    newer = second.tree()
    assert newer.open("f1").read() == b"content 1"
    assert newer.open("f2").read() == b"changed"
    assert older.open("f2").read() == b"content 2", "an open tree never changes"
    older.close()
    newer.close()


def test_large_files_may_come_interleaved(pack: Pack) -> None:
    one, two = bytes(range(256)) * 4096, b"x" * (STREAMED_BYTES + 1)
    receiver = Receiver(pack, {})
    receiver.take([stat("one", size=len(one)), stat("two", size=len(two)), LISTED])
    for at in range(0, len(one), 32768):
        receiver.take([data(number, part) for number in (0, 1) if (part := (one, two)[number][at : at + 32768])])
    receiver.take([data(1, b""), data(0, b"")])
    tree = receiver.snapshot().tree()
    assert tree.open("one").read() == one
    assert tree.open("two").read() == two
    assert tree.digest("one") == "sha256:" + hashlib.sha256(one).hexdigest()
    tree.close()


@pytest.mark.parametrize("real", [b"", b"short", b"long " * 200_000])
def test_a_file_that_changes_while_it_is_sent_is_what_came(pack: Pack, real: bytes) -> None:
    receiver = Receiver(pack, {})
    receiver.take([stat("f", size=100), LISTED])
    for at in range(0, len(real), 32768):
        receiver.take([data(0, real[at : at + 32768])])
    receiver.take([data(0, b"")])
    snapshot = receiver.snapshot()
    tree = snapshot.tree()
    assert tree.open("f").read() == real
    assert tree.entries()["f"].size == len(real)
    assert not snapshot.known, "its packet does not say what it is"
    tree.close()


@pytest.mark.parametrize(
    "path", ["", "/etc", "..", "a/../b", "./a", "a//b", "a/", "a\0b", "missing/file", "x" * 5000], ids=repr
)
def test_unclean_paths_are_refused(pack: Pack, path: str) -> None:
    with pytest.raises(InvalidArgument, match="the client sent"):
        Receiver(pack, {}).take([stat(path, size=1)])


def test_what_nobody_asked_for_is_refused(pack: Pack) -> None:
    receiver = Receiver(pack, {})
    receiver.take([stat("f", size=1), LISTED])
    with pytest.raises(InvalidArgument, match="nobody asked for"):
        receiver.take([data(5, b"x")])
    for twice in (stat("a"), stat("a", DIRECTORY)):
        with pytest.raises(InvalidArgument, match="out of order"):
            Receiver(pack, {}).take([stat("a"), twice])
    with pytest.raises(InvalidArgument, match="out of order"):
        Receiver(pack, {}).take([stat("link", LINK, linkname="/etc"), stat("link/passwd", size=1)])
    with pytest.raises(InvalidArgument, match="hard link"):
        Receiver(pack, {}).take([stat("a", linkname="b")])


def test_the_senders_error_is_ours(pack: Pack) -> None:
    with pytest.raises(Internal, match="error from sender: permission denied"):
        Receiver(pack, {}).take([Packet(type=Packet.PACKET_ERR, data=b"permission denied").SerializeToString()])


def test_stats_go_both_ways() -> None:
    sent = Stat(path="a", mode=1 << 23 | 1 << 20 | 0o751, uid=3, gid=4, size=5, modTime=6, xattrs={"user.x": b"y"})
    entry = read_stat(sent)
    assert entry is not None
    assert to_stat(entry) == sent


def test_kept_directories_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packs = Packs(str(tmp_path / "sync"))
    monkeypatch.setattr("sampan.engine.builder.clients.packs.LIMIT_COUNT", 2)
    for number in range(4):
        kept = packs.get(number)
        snapshot, _ = transfer(packs.begin(kept), {"f": bytes([number]) * 1000})
        packs.keep(kept, snapshot)
    assert packs.bytes == 2000
    assert not packs.get(0).known
    assert packs.get(3).known
    assert packs.forget() == 2000
    assert packs.bytes == 0
    assert list((tmp_path / "sync").iterdir()) == [], "nothing has a name"
    packs.close()


def test_kept_entries_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packs = Packs(str(tmp_path))
    monkeypatch.setattr("sampan.engine.builder.clients.packs.LIMIT_ENTRIES", 15)
    for number in range(3):
        kept = packs.get(number)
        snapshot, _ = transfer(packs.begin(kept), {f"f{n}": b"x" for n in range(10)})
        packs.keep(kept, snapshot)
    assert packs.entries == 10
    packs.close()


def test_a_pack_of_waste_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.engine.builder.clients.packs.WASTE_BYTES", 1500)
    packs = Packs(str(tmp_path))
    for number in range(3):
        kept = packs.get("ctx")
        snapshot, _ = transfer(packs.begin(kept), {"f": bytes([number]) * (1000 + number)}, kept.known)
        packs.keep(kept, snapshot)
    assert packs.bytes == 0
    packs.close()


def test_a_file_may_grow_while_it_is_sent_but_not_without_end(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesync, "GROWTH_BYTES", 1 << 20)
    receiver = Receiver(pack, {})
    receiver.take([stat("log", size=STREAMED_BYTES + 1), LISTED])
    receiver.take([data(0, b"x" * STREAMED_BYTES), data(0, b"y" * (1 << 20))])
    with pytest.raises(InvalidArgument, match="log grew by more than 1 MiB while it was sent"):
        receiver.take([data(0, b"z" * 2)])
