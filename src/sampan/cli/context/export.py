"""`sampan context export`: a context as a tar archive (meta.json and tls/docker/*.pem)."""

from __future__ import annotations

import os

from sampan.cli.context import store
from sampan.cli.session import CommandError
from sampan.cli.streams import write_all
from sampan.client import jsontext
from sampan.errors import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTEXT [FILE|-]"
ARGS = (1, 2)
FLAGS = ""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    import io
    import tarfile

    name = args[0]
    target = args[1] if len(args) > 1 else f"{name}.dockercontext"
    if target == "-" and os.isatty(1):
        raise CommandError("cowardly refusing to export to a terminal, specify a file path")
    files = {"meta.json": jsontext.dumps(store.load(cli.config.directory, name)).encode()}
    for kind, path in store.tls_files(cli.config.directory, name).items():
        with open(path, "rb") as f:
            files[f"tls/docker/{kind}.pem"] = f.read()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, data in files.items():
            info = tarfile.TarInfo(member)
            info.size, info.mode = len(data), 0o600 if member.startswith("tls/") else 0o644
            archive.addfile(info, io.BytesIO(data))
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
