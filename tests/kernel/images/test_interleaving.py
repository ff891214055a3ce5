"""Clients of the image service beside each other, in every order that a seed makes.

Whatever the order: a client gets its answer, or NotFound or Conflict; a name means an image that is there; an image has
its configuration and all its layers with their files; nothing is held when all are done.

SAMPAN_INTERLEAVINGS: how many seeds a test plays; CI plays a few.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from sampan.engine.images import pull, push
from sampan.engine.images.service import Images
from sampan.errors import Conflict, NotFound, SampanError
from sampan.registry.auth import Credentials
from tests.kernel.images.archives import archive, member, stream
from tests.support import registry
from tests.support.images import discard, prepare
from tests.support.images import open_images as service
from tests.support.interleaving import interleaved

pytestmark = pytest.mark.root

SEEDS = range(int(os.environ.get("SAMPAN_INTERLEAVINGS", "12")))
Client = Callable[[Images], Awaitable[object]]
BASE = registry.layer({"etc/base": b"base"})
ONE = registry.Image([BASE, registry.layer({"one": b"1"})])
TWO = registry.Image([BASE, registry.layer({"two": b"2"})])


@pytest.fixture(scope="module")
def liar() -> Iterator[registry.Liar]:
    """A registry with two images that share their base."""
    served = registry.Liar()
    served.images |= {"one": ONE, "two": TWO}
    try:
        yield served
    finally:
        served.close()


def wrong(images: Images) -> list[str]:
    """What must never be, in words."""
    found = []
    for tag in images.catalog.tags.all():
        found += [f"{tag.id} means {lost}, which is not there" for lost in images.catalog.lost_members(tag)]
    for record in images.catalog.images.all():
        try:
            chain = images.layers.records(images.catalog.reread(record.id).chain_id)
        except SampanError as e:
            found.append(f"image {record.id}: {e.message}")
            continue
        missing = [layer.id for layer in chain if not os.path.isdir(f"{images.driver.path(layer.snapshot)}/fs")]
        found += [f"image {record.id}: the files of layer {layer} are not there" for layer in missing]
    for holder, target in images.store.references():
        if holder.noun == "work":
            found.append(f"{holder} still holds {target}")
        if target.noun == "layer" and target.id not in images.layers:
            found.append(f"{holder} holds {target}, which is not there")
    return found


def play(seed: int, begin: Client | None, *clients: Client, rounds: int = 3) -> None:
    """Run the clients side by side, each some rounds; look after each answer and at the end."""
    with tempfile.TemporaryDirectory() as directory:

        async def main() -> None:
            async with service(Path(directory) / "d") as images:
                if begin is not None:
                    await begin(images)

                async def one(client: Client) -> None:
                    for _ in range(rounds):
                        try:
                            await client(images)
                        except (NotFound, Conflict):
                            pass
                        await images.list(all=True, shared_size=True)

                await asyncio.gather(*(one(client) for client in clients))
                assert not wrong(images), f"seed {seed}: {wrong(images)}"
                while images.catalog.images.all():
                    for record in images.catalog.images.all():
                        try:
                            await images.remove(record.id, force=True)
                        except (NotFound, Conflict):  # gone with its child, or its child comes first
                            pass
                assert (await images.list(all=True), images.layers.all()) == ([], []), f"seed {seed}"

        interleaved(seed, main)


async def no_error(messages: object) -> None:
    async for message in messages:  # type: ignore[attr-defined]
        assert "error" not in message, message


def pulls(liar: registry.Liar, name: str) -> Client:
    async def work(images: Images) -> None:
        wanted = pull.request(f"{liar.host}/{name}", "1", platform="", credentials=Credentials())
        await no_error(images.transfer.pull(wanted))

    return work


def removes(name: str, *, force: bool = True) -> Client:
    async def work(images: Images) -> None:
        await asyncio.sleep(0)
        await images.remove(name, force=force)

    return work


def tags(name: str, repo: str) -> Client:
    async def work(images: Images) -> None:
        await images.tag(name, repo, "1")

    return work


def imports(repo: str) -> Client:
    async def work(images: Images) -> None:
        await no_error(images.transfer.import_(stream(archive(member("f", b"x"))), repo=repo))

    return work


async def prunes(images: Images) -> None:
    await images.prune({"dangling": ["false"]})


@pytest.mark.parametrize("seed", SEEDS)
def test_pull_beside_removal_by_id(liar: registry.Liar, seed: int) -> None:
    play(seed, None, pulls(liar, "one"), removes(ONE.id))


@pytest.mark.parametrize("seed", SEEDS)
def test_two_pulls_that_share_a_layer_beside_removal_and_prune(liar: registry.Liar, seed: int) -> None:
    play(seed, None, pulls(liar, "one"), pulls(liar, "two"), removes(ONE.id), prunes)


@pytest.mark.parametrize("seed", SEEDS)
def test_tag_beside_removal_and_prune(liar: registry.Liar, seed: int) -> None:
    play(seed, pulls(liar, "one"), tags(ONE.id, "other"), pulls(liar, "one"), removes(ONE.id), prunes)


@pytest.mark.parametrize("seed", SEEDS)
def test_import_beside_tag_and_removal(seed: int) -> None:
    play(seed, imports("app"), imports("app"), tags("app", "app2"), removes("app"), removes("app2:1"))


@pytest.mark.parametrize("seed", SEEDS)
def test_save_and_load_beside_removal(liar: registry.Liar, seed: int) -> None:
    saved: list[bytes] = []

    async def begin(images: Images) -> None:
        await pulls(liar, "one")(images)
        saved.append(b"".join([bytes(chunk) async for chunk in images.transfer.save([f"{liar.host}/one:1"])]))

    async def saves(images: Images) -> None:
        async for _ in images.transfer.save([ONE.id]):
            pass

    async def loads(images: Images) -> None:
        await no_error(images.transfer.load(stream(saved[0])))

    play(seed, begin, loads, saves, removes(ONE.id))


@pytest.mark.parametrize("seed", SEEDS)
def test_container_and_commit_beside_removal(liar: registry.Liar, seed: int) -> None:
    """A container holds its image's layers; what is committed on them stands whatever becomes of the image."""

    async def runs(images: Images) -> None:
        image = images.resolve(ONE.id)
        await prepare(images, "c", image)
        try:
            await images.roots.usage("c")
            await images.commit("c", config=None, container_config={}, parent=image, repo="made", tag="1")
        finally:
            discard(images, "c")

    play(seed, pulls(liar, "one"), runs, pulls(liar, "one"), removes(ONE.id), removes("made:1"))


@pytest.mark.parametrize("seed", SEEDS)
def test_push_beside_removal(liar: registry.Liar, seed: int) -> None:
    """A push that has begun goes on to its end."""
    receiver = registry.Receiver()
    try:
        name = f"{receiver.host}/pushed"

        async def begin(images: Images) -> None:
            await pulls(liar, "one")(images)
            await images.tag(ONE.id, name, "1")

        async def pushes(images: Images) -> None:
            wanted = push.request(images.catalog, name, "1", None)
            async for message in images.transfer.push(wanted, Credentials()):
                assert "error" not in message or "does not exist locally" in str(message["error"]), message

        play(seed, begin, pushes, removes(ONE.id), tags(ONE.id, name), pulls(liar, "one"))
    finally:
        receiver.close()
