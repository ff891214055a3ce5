"""`sampan context export`: a context as a tar archive (meta.json and tls/docker/*.pem)."""

from __future__ import annotations

import os

from sampan.cli import endpoint
from sampan.cli.config import DEFAULT_CONTEXT
from sampan.cli.context import store
from sampan.cli.session import CommandError
from sampan.cli.streams import write_all
from sampan.client import jsontext
from sampan.errors import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTEXT [FILE|-]"
ARGS = (1, 2)
FLAGS = ""


def _metadata(cli: Cli, name: str) -> dict[str, Any]:
    """Return what a context says; the default one says what flags and environment say."""
    if name != DEFAULT_CONTEXT:
        return store.load(cli.config.directory, name)
    found = endpoint.described(cli.options, cli.config, name)
    return {key: found[key] for key in ("Name", "Metadata", "Endpoints")}


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    import io
    import tarfile

    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    if mode & 0o100:
        info.type = tarfile.DIRTYPE
    archive.addfile(info, io.BytesIO(data))


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    import io
    import tarfile

    name = args[0]
    target = args[1] if len(args) > 1 else f"{name}.dockercontext"
    if target == "-" and os.isatty(1):
        raise CommandError("cowardly refusing to export to a terminal, specify a file path")
    files = {"meta.json": jsontext.dumps(_metadata(cli, name)).encode()}
    for kind, path in store.tls_files(cli.config.directory, name).items():
        with open(path, "rb") as f:
            files[f"tls/docker/{kind}.pem"] = f.read()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, data in files.items():
            if member == "meta.json":
                _add(archive, member, data, 0o644)
                for directory in ("tls", "tls/docker") if len(files) > 1 else ("tls",):
                    _add(archive, directory, b"", 0o700)
            else:
                _add(archive, member, data, 0o600)
    if target == "-":
        write_all(1, buffer.getvalue())
        return 0
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise CommandError(f"open {target}: {words(e)}") from e
    with open(fd, "wb") as f:
        f.write(buffer.getvalue())
    cli.warn(f'Written file "{target}"')
    return 0
