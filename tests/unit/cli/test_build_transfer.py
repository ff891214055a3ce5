"""What may be put into a directory and where; what of one is sent."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from sampan.cli.builder import transfer
from sampan.cli.builder.place import Place
from sampan.cli.builder.session import Offer
from sampan.cli.session import CommandError
from sampan.spec.buildkit import session_pb2 as pb
from sampan.spec.buildkit.filesync_pb2 import Stat

DIRECTORY, LINK = 1 << 31 | 0o755, 1 << 27 | 0o777


class Fields(dict[str, list[str]]):
    """Header fields, several to a name."""

    def getall(self, key: str, default: list[str]) -> list[str]:
        return super().get(key, default)

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key, [default])[0]


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "a//out", "", ".", "..", "nul\0"])
def test_unclean_names_are_refused(tmp_path: Path, name: str) -> None:
    place = Place(str(tmp_path))
    place.make(Stat(path="a", mode=DIRECTORY))
    with pytest.raises(CommandError, match="unclean path"):
        place.make(Stat(path=name, mode=DIRECTORY))
    with pytest.raises(CommandError, match="unclean path"):
        place.begin(1, Stat(path=name, mode=0o644))
    if name != "/out":  # a hard link's target may begin with a slash: it is the directory's root
        with pytest.raises(CommandError, match="unclean path"):
            place.link(Stat(path="linked", linkname=name, mode=0o644))
    place.close()
    assert os.listdir(tmp_path) == ["a"]


def test_no_link_is_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "file").write_text("kept")
    place = Place(str(inside))
    place.make(Stat(path="way", linkname=str(outside), mode=LINK))
    place.make(Stat(path="file", linkname=str(outside / "file"), mode=LINK))
    with pytest.raises(NotADirectoryError):
        place.begin(1, Stat(path="way/new", mode=0o644))
    with pytest.raises(NotADirectoryError):
        place.link(Stat(path="stolen", linkname="way/file", mode=0o644))
    place.begin(2, Stat(path="file", mode=0o600))
    place.write(2, b"new")
    place.end(2)
    place.begin(3, Stat(path="half", mode=0o600))
    place.close()
    assert (inside / "file").read_text() == "new" and not (inside / "file").is_symlink()
    assert (outside / "file").read_text() == "kept" and os.listdir(outside) == ["file"]
    assert sorted(os.listdir(inside)) == ["file", "way"]


def test_what_is_asked_for(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/b/d", "a/x.out", "e/f", "g"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "l").symlink_to("a/m")
    (tmp_path / "a/m").symlink_to("/e/f")
    (tmp_path / "z").symlink_to("z")

    def sent(**fields: list[str]) -> list[str]:
        wanted = transfer.DirectoryRequest(Fields({key.replace("_", "-"): value for key, value in fields.items()}))
        return [path for path, _ in wanted.entries(str(tmp_path))]

    everything = ["a", "a/b", "a/b/c", "a/b/d", "a/m", "a/x.out", "e", "e/f", "g", "l", "z"]
    assert sent() == everything == sent(followpaths=["."])
    assert sent(exclude_patterns=["**/*.out", "a/b"]) == ["a", "a/m", "e", "e/f", "g", "l", "z"]
    assert sent(include_patterns=["a/*/c"]) == ["a", "a/b", "a/b/c"]
    assert sent(followpaths=["l"]) == ["a", "a/m", "e", "e/f", "l"]
    assert sent(followpaths=["a/?"]) == ["a", "a/b", "a/b/c", "a/b/d", "a/m", "e", "e/f"]
    assert sent(followpaths=["z", "../g", "none"]) == ["g", "z"]
    assert transfer.values(Fields({"k": ["%C3%A9+"], "k-encoded": ["1"]}), "k") == ["é "]


def test_credentials_are_asked_for_by_host() -> None:
    class Stream:
        sent: bytes | None = None

        async def recv_message(self) -> bytes:
            return pb.CredentialsRequest(Host="r.example").SerializeToString()

        async def send_message(self, message: bytes) -> None:
            self.sent = message

    offer = Offer({}, {}, {}, {}, lambda host: ("user", f"secret of {host}"))
    ((path, handler),) = offer.__mapping__().items()
    assert path == "/moby.filesync.v1.Auth/Credentials"
    stream = Stream()
    asyncio.run(handler.func(stream))
    assert stream.sent is not None
    answer = pb.CredentialsResponse.FromString(stream.sent)
    assert (answer.Username, answer.Secret) == ("user", "secret of r.example")
