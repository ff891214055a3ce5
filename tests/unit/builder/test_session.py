"""Every session answers as the one contract says, and each of those that forward does its own part."""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from sampan.engine.builder.buildkit.borrowing import BorrowingSession
from sampan.engine.builder.files.dirtree import DirTree
from sampan.engine.builder.files.tartree import TarTree
from sampan.engine.builder.narrowed import NarrowedSession
from sampan.engine.builder.session import Forwarding, LocalRequest, Session
from sampan.engine.builder.trees import Tree
from sampan.engine.builder.uploaded import UnconnectedSession, UploadedSession
from sampan.errors import InvalidArgument, NotFound


class Client:
    """A client with directories by name; notes what it is asked for and what it gets."""

    def __init__(self, id: str, **directories: Path) -> None:
        self.id = id
        self.directories = directories
        self.asked: list[LocalRequest] = []
        self.got: list[tuple[int, object]] = []

    async def local(self, wanted: LocalRequest) -> Tree:
        self.asked.append(wanted)
        if wanted.name not in self.directories:
            raise NotFound(wanted.name)
        return DirTree(str(self.directories[wanted.name]))

    async def secret(self, id: str) -> bytes:
        if id != "known":
            raise NotFound(id)
        return b"secret of " + self.id.encode()

    async def ssh_agent(self, id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise NotFound(id)

    async def credentials(self, host: str) -> tuple[str, str]:
        return "user", host

    async def put_tree(self, tree: Tree, *, exporter: int = 0) -> None:
        self.got.append((exporter, sorted(tree.entries())))

    async def put_file(self, chunks: AsyncIterator[bytes], metadata: Mapping[str, str], *, exporter: int = 0) -> None:
        self.got.append((exporter, (b"".join([chunk async for chunk in chunks]), dict(metadata))))


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "file").write_text("content")
    (directory / "other").write_text("not wanted")
    return directory


async def names(session: Session, wanted: LocalRequest) -> list[str]:
    tree = await session.local(wanted)
    try:
        return sorted(tree.entries())
    finally:
        tree.close()


FORWARDING: dict[str, Callable[[Session], Session]] = {
    "forwarding": Forwarding,
    "narrowed": NarrowedSession,
    "borrowing": lambda client: BorrowingSession(client, {}),
    "uploaded": lambda client: UploadedSession("uploaded", None, client),
}


@pytest.mark.parametrize("kind", FORWARDING)
def test_a_session_that_forwards_gives_what_its_client_gives(kind: str, context: Path) -> None:
    async def body() -> None:
        client = Client("client", context=context)
        session = FORWARDING[kind](client)
        assert await names(session, LocalRequest(name="context")) == ["file", "other"]
        with pytest.raises(NotFound):
            await session.local(LocalRequest(name="elsewhere"))
        assert await session.secret("known") == b"secret of client"
        with pytest.raises(NotFound):
            await session.secret("unknown")
        with pytest.raises(NotFound):
            await session.ssh_agent("default")
        assert await session.credentials("host") == ("user", "host")

        async def chunks() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        await session.put_file(chunks(), {"dest": "x"}, exporter=1)
        tree = DirTree(str(context))
        await session.put_tree(tree, exporter=2)
        tree.close()
        assert client.got == [(1, (b"ab", {"dest": "x"})), (2, ["file", "other"])]
        assert session.id == ("uploaded" if kind == "uploaded" else "client")

    asyncio.run(body())


def test_a_client_that_is_not_connected_has_nothing(context: Path) -> None:
    async def body() -> None:
        for session in (UnconnectedSession("none"), UploadedSession("none", None)):
            with pytest.raises(NotFound, match="the client has no context named context"):
                await session.local(LocalRequest(name="context"))
            with pytest.raises(NotFound, match="secret s: not found: the build has no session to ask"):
                await session.secret("s")
            with pytest.raises(NotFound, match="ssh agent default: not found: the build has no session to ask"):
                await session.ssh_agent("default")
            assert await session.credentials("host") == ("", "")
            tree = DirTree(str(context))
            with pytest.raises(InvalidArgument, match="this output needs a session"):
                await session.put_tree(tree)
            tree.close()

            async def chunks() -> AsyncIterator[bytes]:
                yield b""

            with pytest.raises(InvalidArgument, match="this output needs a session"):
                await session.put_file(chunks(), {})

    asyncio.run(body())


def test_an_uploaded_context_is_the_main_one_and_stays_open(context: Path) -> None:
    async def body() -> None:
        with tarfile.open(context.parent / "own.tar", "w") as archive:
            archive.add(context, "")
        own = TarTree.open_file(str(context.parent / "own.tar"), str(context.parent))
        client = Client("client", context=context.parent, more=context)
        session = UploadedSession("id", own, client)
        for name in ("context", "dockerfile"):
            assert await names(session, LocalRequest(name=name, exclude=("other",))) == ["file"]
        assert not client.asked
        assert await names(session, LocalRequest(name="more")) == ["file", "other"]
        assert sorted(own.entries()) == ["file", "other"]
        kept = await session.local(LocalRequest(name="context"))
        own.close()
        with kept.open("file") as file:  # a step may read it when the request has gone
            assert file.read() == (context / "file").read_bytes()
        kept.close()

    asyncio.run(body())


def test_a_build_asks_for_what_it_uses(context: Path) -> None:
    async def body() -> None:
        client = Client("client", context=context, whole=context)
        session = NarrowedSession(client)
        session.paths = {"context": ("/file", "/sub/dir"), "whole": ("/", "/file")}
        for wanted in (
            LocalRequest(name="context"),
            LocalRequest(name="context", follow=("Dockerfile",)),
            LocalRequest(name="whole"),
        ):
            (await session.local(wanted)).close()
        assert [one.follow for one in client.asked] == [("file", "sub/dir"), ("Dockerfile",), ()]
        session.owned.append(tree := DirTree(str(context)))
        await session.close()
        with pytest.raises(NotFound):
            tree.open("file")

    asyncio.run(body())


def test_a_directory_is_borrowed_from_the_session_that_has_it(context: Path) -> None:
    async def body() -> None:
        own, other = Client("own", context=context), Client("other", shared=context)
        session = BorrowingSession(own, {"shared": other})
        (await session.local(LocalRequest(name="shared"))).close()
        (await session.local(LocalRequest(name="context"))).close()
        assert [one.name for one in own.asked] == ["context"] and [one.name for one in other.asked] == ["shared"]
        assert await session.secret("known") == b"secret of own"

    asyncio.run(body())
