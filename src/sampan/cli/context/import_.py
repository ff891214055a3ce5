"""`sampan context import`: a context out of a tar or zip archive.

Only the members that a context has are read (meta.json, tls/docker/{ca,cert,key}.pem), by name and into memory;
nothing is ever extracted to a path that the archive chooses.
"""

from __future__ import annotations

import sys

from sampan.cli.context import store
from sampan.cli.session import CommandError
from sampan.client import jsontext
from sampan.errors import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "CONTEXT FILE|-"
ARGS = (2, 2)
FLAGS = ""
MAX_BYTES = 10 << 20
WANTED = {"meta.json": "", **{f"tls/docker/{kind}.pem": f"{kind}.pem" for kind in store.FILES}}


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    name, source = args
    store.check_name(name)
    if name in store.names(cli.config.directory):
        raise CommandError(f'context "{name}" already exists')
    try:
        if source == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(source, "rb") as f:
                data = f.read(MAX_BYTES + 1)
    except OSError as e:
        raise CommandError(f"open {source}: {words(e)}") from e
    if len(data) > MAX_BYTES:
        raise CommandError("read exceeds the defined limit")
    members = _zip(data) if data.startswith(b"PK") else _tar(data)
    if "meta.json" not in members:
        raise CommandError("unexpected context file: meta.json not found")
    meta = jsontext.loads(members.pop("meta.json"))
    meta["Name"] = name
    store.save(cli.config.directory, name, meta, {WANTED[member]: text for member, text in members.items()})
    cli.line(name)
    cli.warn(f'Successfully imported context "{name}"')
    return 0


def _tar(data: bytes) -> dict[str, bytes]:
    import io
    import tarfile

    out = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                if member.name in WANTED and member.isfile() and (f := archive.extractfile(member)) is not None:
                    out[member.name] = f.read(MAX_BYTES)
    except tarfile.TarError as e:
        raise CommandError(f"cannot read context archive: {e}") from e
    return out


def _zip(data: bytes) -> dict[str, bytes]:
    import io
    import zipfile

    out = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                if member.filename in WANTED and member.file_size <= MAX_BYTES:
                    out[member.filename] = archive.read(member)
    except zipfile.BadZipFile as e:
        raise CommandError(f"cannot read context archive: {e}") from e
    return out
