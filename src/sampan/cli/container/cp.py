"""`sampan cp`: between a container and this machine, or a tar stream on standard input or output."""

from __future__ import annotations

import os

from sampan.cli.container import copying
from sampan.cli.container.copying import CopySource, Destination
from sampan.cli.session import CommandError
from sampan.cli.units import human_size
from sampan.client import jsontext
from sampan.client.engine import quoted
from sampan.errors import SampanError, words
from sampan.spec import go_modes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli
    from sampan.client.http import Response

USAGE = "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n[OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH"
ABOUT = """Copy files between a container and this machine

With '-' as the source a tar archive is read from stdin and extracted in a
directory of the container; with '-' as the destination what is copied is
written to stdout as a tar archive."""
ARGS = (2, 2)
FLAGS = """
  -a, --archive       Keep user and group ids
  -L, --follow-link   Follow a symbolic link in SRC_PATH
  -q, --quiet         Do not say what was copied (nothing is said without a terminal)
"""
READ_BYTES = 1 << 20


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    if not args[0]:
        raise CommandError("source can not be empty")
    if not args[1]:
        raise CommandError("destination can not be empty")
    source, source_path = copying.split_argument(args[0])
    target, target_path = copying.split_argument(args[1])
    if source and target:
        raise CommandError("copying between containers is not supported")
    if not source and not target:
        raise CommandError("must specify at least one container source")
    quiet = opts.flag("quiet") if opts.changed("quiet") else not os.isatty(1)
    try:
        if source:
            message = _from_container(cli, opts, source, source_path, target_path)
        else:
            message = _to_container(cli, opts, source_path, target, target_path)
    except copying.CopyRefused as e:
        raise CommandError(str(e)) from e
    except OSError as e:
        raise CommandError(f"{e.filename}: {words(e)}" if e.filename else str(e)) from e
    if message and not quiet:
        cli.warn(message)
    return 0


def _stat_of(response: Response) -> dict[str, Any]:
    """Return the decoded X-Docker-Container-Path-Stat header."""
    import binascii

    stat: dict[str, Any] = jsontext.loads(binascii.a2b_base64(response.headers["x-docker-container-path-stat"]))
    return stat


def _stat(cli: Cli, container: str, path: str) -> dict[str, Any] | None:
    try:
        response = cli.engine.open("HEAD", f"/containers/{quoted(container)}/archive", {"path": path})
    except SampanError:
        return None  # what is wrong shows when the copy itself is asked for
    cli.engine.finish(response)
    return _stat_of(response)


# -- out of the container --------------------------------------------------------------------------------------------


def _from_container(cli: Cli, opts: FlagValues, container: str, path: str, target: str) -> str:
    from sampan.cli.container import archive

    rebase = ""
    if opts.flag("follow-link"):
        stat = _stat(cli, container, path)
        if stat is not None and stat["mode"] & go_modes.SYMLINK:
            link = stat["linkTarget"]
            if not os.path.isabs(link):
                link = os.path.join(copying.split(path)[0], link)
            rebase = "" if os.path.basename(link) == os.path.basename(path.rstrip("/")) else copying.split(path)[1]
            path = link + ("/." if path.endswith("/.") else "/" if path.endswith("/") else "")
    response = cli.engine.open("GET", f"/containers/{quoted(container)}/archive", {"path": path})
    if target == "-":
        from sampan.cli.output import save

        if os.isatty(1):
            raise CommandError("cowardly refusing to write a tar archive to a terminal")
        save(response, "")
        return ""
    is_dir = bool(_stat_of(response)["mode"] & go_modes.DIRECTORY)
    name = copying.split(path)[1]
    source = CopySource(path, is_dir=is_dir, rebase=rebase)
    destination = _local_destination(target)
    directory, _, new = copying.place(source, destination)
    if not os.path.isdir(directory):
        raise CommandError(f'invalid output path: directory "{directory}" does not exist')
    old, new = (name, new) if new else (name, rebase) if rebase else ("", "")
    try:
        count = archive.extract(response.chunks(), directory, old=old, new=new)
    except (archive.UnsafeArchive, archive.TarError) as e:
        raise CommandError(str(e)) from e
    return f"Successfully copied {human_size(count, 3)} to {os.path.abspath(target)}"


def _local_destination(path: str) -> Destination:
    """Look what is at a local path; a link is followed, and a file must be a plain one."""
    import stat

    absolute = copying.clean(os.path.join(os.getcwd(), path))
    if asserts := copying.asserts_directory(path):
        absolute = absolute if copying.asserts_directory(absolute) else absolute + "/"
    resolved = os.path.realpath(absolute)
    try:
        mode = os.stat(absolute).st_mode
    except FileNotFoundError:
        return Destination(resolved + ("/" if asserts else ""))
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise copying.CopyRefused(f'invalid output path: "{path}" must be a directory or a regular file')
    return Destination(resolved, exists=True, is_dir=stat.S_ISDIR(mode))


# -- into the container ----------------------------------------------------------------------------------------------


def _to_container(cli: Cli, opts: FlagValues, path: str, container: str, target: str) -> str:
    destination = _container_destination(cli, container, target)
    query: dict[str, object] = {"noOverwriteDirNonDir": "true", "copyUIDGID": "true" if opts.flag("archive") else None}
    if path == "-":
        if not destination.is_dir:
            raise CommandError(f'destination "{container}:{target}" must be a directory')
        from sampan.cli.image.load import pieces

        _send(cli, container, {"path": destination.path, **query}, pieces(0))
        return ""
    source, name = _local_source(path, follow=opts.flag("follow-link"))
    directory, old, new = copying.place(source, destination)
    from sampan.cli.container import archive

    counted = _CountedChunks(archive.pack(source.path, copying.renamed(name, old, new) if old else name))
    _send(cli, container, {"path": directory, **query}, counted)
    return f"Successfully copied {human_size(counted.count, 3)} to {container}:{target}"


class _CountedChunks:
    """Passes chunks on and counts their bytes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.count += len(chunk)
            yield chunk


def _send(cli: Cli, container: str, query: dict[str, object], body: Iterable[bytes]) -> None:
    response = cli.engine.open(
        "PUT",
        f"/containers/{quoted(container)}/archive",
        query,
        headers=[("Content-Type", "application/x-tar")],
        raw=body,
    )
    response.read()
    cli.engine.finish(response)


def _container_destination(cli: Cli, container: str, path: str) -> Destination:
    stat = _stat(cli, container, path)
    if stat is not None and stat["mode"] & go_modes.SYMLINK:
        link: str = stat["linkTarget"]
        path = link if os.path.isabs(link) else os.path.join(copying.split(path)[0], link)
        stat = _stat(cli, container, path)
    if stat is None:
        return Destination(path)
    is_dir = bool(stat["mode"] & go_modes.DIRECTORY)
    if not is_dir and stat["mode"] & (go_modes.DEVICE | go_modes.IRREGULAR):
        raise copying.CopyRefused(f'destination "{container}:{path}" must be a directory or a regular file')
    return Destination(path, exists=True, is_dir=is_dir)


def _local_source(path: str, *, follow: bool) -> tuple[CopySource, str]:
    """Return (what to pack, the name its entries begin with)."""
    absolute = copying.clean(os.path.join(os.getcwd(), path))
    name = copying.split(absolute)[1]
    if copying.asserts_directory(absolute) or follow:
        real = os.path.realpath(absolute)
    else:
        parent, base = os.path.split(absolute)
        real = os.path.join(os.path.realpath(parent), base)
    if not os.path.lexists(real):
        raise CommandError(f"lstat {real if follow else absolute}: no such file or directory")
    is_dir = os.path.isdir(real) and not os.path.islink(real)
    if copying.asserts_directory(path) and not is_dir:
        raise copying.CopyRefused("not a directory")
    return CopySource(real, is_dir=is_dir, rebase=name), name
