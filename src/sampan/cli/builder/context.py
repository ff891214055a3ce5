"""A build's context as an archive: a directory without what its ignore file excludes, in order of names.

Owners are 0:0 and names are relative, as docker sends them; times and modes are the files'. Equal directories give
equal bytes. What is excluded is not read, and a directory that can hold no exception is not even listed.

Source: docker's build context as observed; POSIX.1-2001 pax for what ustar cannot say.
"""

from __future__ import annotations

import os
import stat
from errno import ENOENT

from sampan.cli.session import CommandError
from sampan.errors import words
from sampan.spec import ustar
from sampan.spec.dockerfile import ignore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIECE_BYTES = 1 << 20


def ignored(directory: str, dockerfile: str, own: bytes | None = None) -> ignore.Ignore:
    """Return the patterns of `<Dockerfile>.dockerignore`, else of `.dockerignore`.

    Dockerfile and ignore file are always sent.

    own: what stands beside a Dockerfile that lies outside the context.
    """
    if own is not None:
        return ignore.Ignore(ignore.lines(own))
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        try:
            with open(os.path.join(directory, name), "rb") as file:
                lines = ignore.lines(file.read())
        except FileNotFoundError:
            continue
        except OSError as e:
            raise CommandError(f"open {name}: {words(e)}") from e
        return ignore.Ignore([*lines, *(f"!{kept}" for kept in (dockerfile, name) if lines)])
    return ignore.Ignore([])


def pieces(directory: str, patterns: ignore.Ignore, *, extra: dict[str, bytes] | None = None) -> Iterator[bytes]:
    """Yield the archive, in pieces. extra: files of the client's own, by name; they come first."""
    out = bytearray()
    for piece in list(packed(extra or {}))[:-1]:
        out += piece
    links: dict[tuple[int, int], str] = {}
    for path, found in walk(directory, "", patterns.excludes, patterns.may_hold_exceptions):
        out += _head(directory, path, found, links)
        if len(out) >= PIECE_BYTES:
            yield bytes(out)
            out.clear()
        if stat.S_ISREG(found.st_mode) and found.st_size and links.get((found.st_dev, found.st_ino), path) == path:
            yield from _contents(os.path.join(directory, path), found.st_size, out)
    yield bytes(out) + ustar.END


def larger(directory: str, patterns: ignore.Ignore, files: int, size_bytes: int) -> bool:
    """Tell whether a context has more files or bytes than that; what is beyond is not looked at."""
    for _, found in walk(directory, "", patterns.excludes, patterns.may_hold_exceptions):
        files -= 1
        size_bytes -= found.st_size if stat.S_ISREG(found.st_mode) else 0
        if files < 0 or size_bytes < 0:
            return True
    return False


def compressed(archive: Iterator[bytes]) -> Iterator[bytes]:
    """Compress an archive with gzip."""
    import zlib

    machine = zlib.compressobj(wbits=31)
    for piece in archive:
        if data := machine.compress(piece):
            yield data
    yield machine.flush()


def packed(files: dict[str, bytes]) -> Iterator[bytes]:
    """Yield an archive of nothing but these files."""
    for name, data in sorted(files.items()):
        yield header(name, b"0", 0o644, len(data), 0, "") + data + ustar.padding(len(data))
    yield ustar.END


def walk(
    directory: str, below: str, excludes: Callable[[str], bool], may_hold_exceptions: Callable[[str], bool]
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (path, status) of everything that is sent, parents first. Raises: CommandError for what cannot be read."""
    try:
        with os.scandir(os.path.join(directory, below)) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as e:
        raise CommandError(f"error checking context: can't stat '{os.path.join(directory, below)}'") from e
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        folder = entry.is_dir(follow_symlinks=False)
        out = excludes(path)
        if out and not (folder and may_hold_exceptions(path)):
            continue
        inside = list(walk(directory, path, excludes, may_hold_exceptions)) if folder and out else None
        if inside == []:
            continue  # an excluded directory is sent only for the exceptions in it
        try:
            yield path, entry.stat(follow_symlinks=False)
        except OSError as e:
            if e.errno == ENOENT:
                continue
            raise CommandError(f"error checking context: can't stat '{entry.path}'") from e
        if inside is not None:
            yield from inside
        elif folder:
            yield from walk(directory, path, excludes, may_hold_exceptions)


def _head(directory: str, path: str, found: os.stat_result, links: dict[tuple[int, int], str]) -> bytes:
    kind = ustar.KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return b""  # a socket
    mode, target, size = stat.S_IMODE(found.st_mode), "", 0
    if kind == b"2":
        target = os.readlink(os.path.join(directory, path))
    elif kind == b"0":
        size = found.st_size
        if found.st_nlink > 1:
            first = links.setdefault((found.st_dev, found.st_ino), path)
            if first != path:
                kind, target, size = b"1", first, 0
    elif kind == b"5":
        path += "/"
    device = (os.major(found.st_rdev), os.minor(found.st_rdev)) if kind in (b"3", b"4") else (0, 0)
    return header(path, kind, mode, size, found.st_mtime_ns, target, device)


def header(
    name: str, kind: bytes, mode: int, size: int, mtime_ns: int, target: str, device: tuple[int, int] = (0, 0)
) -> bytes:
    """Return the header of one member, with a pax header before it where ustar has no room."""
    raw, link = os.fsencode(name), os.fsencode(target)
    seconds, rest = divmod(mtime_ns, 10**9)
    records = {}
    if len(raw) > ustar.NAME_BYTES or not raw.isascii():
        records["path"] = raw
    if len(link) > ustar.NAME_BYTES or not link.isascii():
        records["linkpath"] = link
    if size >= ustar.LONG_LIMIT:
        records["size"] = str(size).encode()
    if rest or seconds < 0:
        records["mtime"] = f"{seconds}.{rest:09d}".encode() if seconds >= 0 else str(seconds).encode()
    block = ustar.block(
        raw[: ustar.NAME_BYTES],
        kind=kind,
        mode=mode,
        size_bytes=min(size, ustar.LONG_LIMIT - 1),
        mtime_s=max(0, seconds),
        link=link[: ustar.NAME_BYTES],
        device=device,
    )
    if not records:
        return block
    text = b"".join(ustar.pax_record(key.encode(), value) for key, value in records.items())
    extended = ustar.block(b"PaxHeaders.0/" + raw[-80:], kind=b"x", mode=0o644, size_bytes=len(text))
    return extended + text + ustar.padding(len(text)) + block


def _contents(path: str, size: int, out: bytearray) -> Iterator[bytes]:
    """A file's bytes, exactly `size`: what grew is cut, what shrank is an error."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as e:
        raise CommandError(f"open {path}: {words(e)}") from e
    try:
        left = size
        while left:
            data = os.read(fd, min(left, PIECE_BYTES))
            if not data:
                raise CommandError(f"{path} became shorter while it was read")
            left -= len(data)
            out += data
            if len(out) >= PIECE_BYTES:
                yield bytes(out)
                out.clear()
        out += ustar.padding(size)
    finally:
        os.close(fd)
