"""Directories between client and engine, as fsutil's packets on one stream.

    sender    STAT* STAT(empty)   DATA(number) for what is asked, an empty one at the end of each   FIN
    receiver  REQ(number)*   FIN

An entry's number is its place in the order of STATs. Received entries stay below the directory: names are clean, no
symbolic link is followed, and a file is put in place by a rename when it is complete. Owners are the user's own.

Source: fsutil's packets (types/wire.proto), Go's os.FileMode.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import stat
import urllib.parse
from contextlib import suppress

from sampan.cli.builder import context
from sampan.cli.builder.place import Place, kind
from sampan.cli.session import CommandError
from sampan.spec import go_modes
from sampan.spec.buildkit.filesync_pb2 import Packet, Stat
from sampan.spec.dockerfile import ignore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

DATA_BYTES = 128 * 1024
REQUESTS = 64
"""How many files are asked for at a time."""
MOST_LINKS = 255


def values(fields: Any, key: str) -> list[str]:
    """Return a header field's values; what is not ASCII comes escaped and marked so."""
    found = [str(value) for value in fields.getall(key, [])]
    return [urllib.parse.unquote_plus(value) for value in found] if fields.get(f"{key}-encoded") == "1" else found


# ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class DirectoryRequest:
    """What of a directory the engine asks for.

    Without include patterns and paths to follow: all that is not excluded.
    """

    def __init__(self, fields: Any) -> None:
        self.exclude = ignore.Ignore(values(fields, "exclude-patterns"))
        self.include = ignore.Ignore(values(fields, "include-patterns"))
        self.follow = values(fields, "followpaths")

    def entries(self, directory: str) -> Iterator[tuple[str, os.stat_result]]:
        """Yield (path, status) in order, parents first.

        A directory that is not asked for comes only when it holds what is.
        """
        found = context.walk(directory, "", self.exclude.excludes, self.exclude.may_hold_exceptions)
        named = followed(directory, self.follow)
        if (not self.include and not self.follow) or "" in named:
            yield from found
            return
        above: list[tuple[str, os.stat_result]] = []
        for path, status in found:
            while above and not path.startswith(above[-1][0] + "/"):
                above.pop()
            if (self.include and self.include.excludes(path)) or _below(path, named):
                yield from above
                above.clear()
                yield path, status
            elif stat.S_ISDIR(status.st_mode):
                above.append((path, status))


def followed(directory: str, patterns: list[str]) -> set[str]:
    """Return the paths that patterns name, every symbolic link on the way, and what it leads to.

    "" means everything.
    """
    found: set[str] = set()
    todo: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((), _parts(text)) for text in patterns]
    links = 0
    while todo:
        above, rest = todo.pop()
        if not rest or "**" in rest[0]:
            found.add("/".join(above))
            continue
        if rest[0] == "..":
            todo.append((above[:-1], rest[1:]))
            continue
        for name in _matching(os.path.join(directory, *above), rest[0]):
            path = (*above, name)
            try:
                target = os.readlink(os.path.join(directory, *path))
            except OSError:
                todo.append((path, rest[1:]))
                continue
            found.add("/".join(path))
            links += 1
            if links <= MOST_LINKS:
                todo.append((() if target.startswith("/") else above, _parts(target) + rest[1:]))
    return found


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))


def _matching(directory: str, pattern: str) -> list[str]:
    if not any(sign in pattern for sign in "*?[\\"):
        return [pattern]
    with suppress(OSError):
        return [name for name in os.listdir(directory) if fnmatch.fnmatchcase(name, pattern)]
    return []


def _below(path: str, named: set[str]) -> bool:
    while path and path not in named:
        path = path.rpartition("/")[0]
    return bool(path)


async def send(stream: Any, directory: str, wanted: DirectoryRequest) -> None:
    """Send a directory. Raises: OSError, CommandError."""
    paths: list[str] = []
    links: dict[tuple[int, int], str] = {}
    for path, status in wanted.entries(directory):
        described = to_stat(directory, path, status, links)
        if described is None:
            continue
        paths.append(path)
        await stream.send_message(Packet(type=Packet.PACKET_STAT, stat=described).SerializeToString())
    await stream.send_message(Packet(type=Packet.PACKET_STAT).SerializeToString())
    while (raw := await stream.recv_message()) is not None:
        packet = Packet.FromString(raw)
        if packet.type == Packet.PACKET_REQ:
            if len(paths) <= packet.ID:
                raise CommandError(f"the engine asked for file {packet.ID} of {len(paths)}")
            await _content(stream, packet.ID, os.path.join(directory, paths[packet.ID]))
        elif packet.type == Packet.PACKET_ERR:
            raise CommandError(packet.data.decode(errors="replace"))
        elif packet.type == Packet.PACKET_FIN:
            await stream.send_message(Packet(type=Packet.PACKET_FIN).SerializeToString())
            return


async def _content(stream: Any, number: int, path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        while True:
            data = os.read(fd, DATA_BYTES)
            await stream.send_message(Packet(type=Packet.PACKET_DATA, ID=number, data=data).SerializeToString())
            if not data:
                return
    finally:
        os.close(fd)


def to_stat(directory: str, path: str, status: os.stat_result, links: dict[tuple[int, int], str]) -> Stat | None:
    """Return an entry in fsutil's words, owned by root; None for a socket.

    links: the first path of each inode with several.
    """
    if stat.S_ISSOCK(status.st_mode):
        return None
    made = Stat(path=path, mode=go_modes.from_unix(status.st_mode), modTime=status.st_mtime_ns)
    if stat.S_ISLNK(status.st_mode):
        made.linkname = os.readlink(os.path.join(directory, path))
    elif stat.S_ISREG(status.st_mode):
        first = links.setdefault((status.st_dev, status.st_ino), path) if status.st_nlink > 1 else path
        made.linkname, made.size = (first, 0) if first != path else ("", status.st_size)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        made.devmajor, made.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return made


# ── receiving ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def receive(stream: Any, directory: str) -> None:
    """Receive a directory into one that may have contents already. Raises: OSError, CommandError."""
    os.makedirs(directory, exist_ok=True)
    place = Place(directory)
    try:
        await _receive(stream, place)
    finally:
        place.close()


async def _receive(stream: Any, place: Place) -> None:
    contents: list[tuple[int, Stat]] = []
    links: list[Stat] = []
    directories: list[Stat] = []
    for number in itertools.count():
        packet = await _packet(stream)
        if packet is None or packet.type != Packet.PACKET_STAT:
            raise CommandError("the engine ended the transfer too early")
        if not packet.HasField("stat"):
            break
        entry = packet.stat
        if kind(entry) != stat.S_IFREG:
            place.make(entry)
            if kind(entry) == stat.S_IFDIR:
                directories.append(entry)
        elif entry.linkname:
            links.append(entry)
        else:
            contents.append((number, entry))
    await _contents(stream, place, contents)
    for entry in links:
        place.link(entry)
    for entry in reversed(directories):
        place.finish(entry)
    await stream.send_message(Packet(type=Packet.PACKET_FIN).SerializeToString())
    while await stream.recv_message() is not None:
        pass


async def _contents(stream: Any, place: Place, contents: list[tuple[int, Stat]]) -> None:
    waiting = iter(contents)
    asked: set[int] = set()
    while True:
        for number, entry in itertools.islice(waiting, REQUESTS - len(asked)):
            place.begin(number, entry)
            asked.add(number)
            await stream.send_message(Packet(type=Packet.PACKET_REQ, ID=number).SerializeToString())
        if not asked:
            return
        packet = await _packet(stream)
        if packet is None or packet.type != Packet.PACKET_DATA or packet.ID not in asked:
            raise CommandError("the engine ended the transfer too early")
        if packet.data:
            place.write(packet.ID, packet.data)
        else:
            place.end(packet.ID)
            asked.remove(packet.ID)


async def _packet(stream: Any) -> Packet | None:
    raw = await stream.recv_message()
    packet = None if raw is None else Packet.FromString(raw)
    if packet is not None and packet.type == Packet.PACKET_ERR:
        raise CommandError(packet.data.decode(errors="replace"))
    return packet
