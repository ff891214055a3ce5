"""Our copy engine beside the reference's answers (copies.json, written by record.py).

Compared: path, kind, mode, owner, size, link, and the times that the reference takes from its input. What it gives the
time of the build must have a time of the input here.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.builder.files import copy
from sampan.engine.builder.files.dirtree import DirTree
from sampan.engine.builder.files.owners import UnknownOwner
from sampan.engine.builder.files.tartree import TarTree
from sampan.engine.builder.ops import Copy, FileOp, LocalOp, Mkdir, Mkfile, Owner, ScratchOp, Vertex
from sampan.engine.builder.trees import Tree
from sampan.errors import SampanError
from sampan.spec.dockerfile import instructions
from sampan.spec.dockerfile.stages import parse
from tests.kernel.builder.files.cases import BASE, CASES, STAGES, T, make_context

ANSWERS: dict[str, Any] = json.loads((Path(__file__).parent / "copies.json").read_text())
CONTEXT = LocalOp(context="context")
STAGE = LocalOp(context="stage")
NOW_S = 1_790_000_000  # no input is that young

# Where we differ from the reference, knowingly.
DIFFERENT = {
    "add_xz": "the reference had no xz program: it copied the archive",
    "wild_escape": "a name without an unescaped wildcard is taken as it stands; the reference copies nothing, silently",
}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """The context as a client sends it."""
    directory = tmp_path_factory.mktemp("context")
    make_context(directory)
    archive = tmp_path_factory.mktemp("archive") / "context.tar"
    assert os.system(f"tar -C {shlex.quote(str(directory))} -cf {shlex.quote(str(archive))} .") == 0
    tree = TarTree.open_file(str(archive), str(archive.parent))
    yield tree
    tree.close()


@pytest.fixture
def root_fd(tmp_path: Path, root: None) -> Iterator[int]:
    """The base image's root."""
    base = tmp_path / "root"
    base.mkdir()
    make_base(base)
    fd = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def make_base(base: Path) -> None:
    for path, (kind, mode, uid, gid, content, _) in BASE.items():
        here = base / path
        if kind == "d":
            here.mkdir()
        elif kind == "l":
            here.symlink_to(content)
        else:
            here.write_text(content)
        os.chown(here, uid, gid, follow_symlinks=False)
        if kind != "l":
            here.chmod(mode)
    for path, (*_, written) in reversed(BASE.items()):
        time = T if written is None else written
        os.utime(base / path, (time, time), follow_symlinks=False)
    os.utime(base, (T, T))


def listing(root: int) -> dict[str, list[Any]]:
    """As record.py describes an image."""
    found: dict[str, list[Any]] = {}
    first: dict[int, str] = {}
    for directory, names, files, fd in os.fwalk(".", dir_fd=root):
        for name in sorted([*names, *files]):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            path = f"{directory}/{name}".removeprefix("./")
            kind = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}[stat.S_IFMT(status.st_mode)]
            link = os.readlink(name, dir_fd=fd) if kind == "l" else ""
            size = status.st_size if kind == "f" else 0
            if kind == "f" and status.st_nlink > 1 and first.setdefault(status.st_ino, path) != path:
                kind, link, size = "h", first[status.st_ino], 0
            mode = f"{stat.S_IMODE(status.st_mode):o}"
            found[path] = [kind, mode, status.st_uid, status.st_gid, size, link, int(status.st_mtime) - T]
    return found


def actions(text: str, source: Vertex, *, classic: bool = False) -> list[Copy | Mkdir | Mkfile]:
    """The file actions of the instructions, as the graph makes them."""
    found: list[Copy | Mkdir | Mkfile] = []
    cwd, user = "/", ""
    for instruction in parse(f"FROM base\n{text}\n").stages[0].instructions:
        if isinstance(instruction, instructions.User):
            user = instruction.user
        elif isinstance(instruction, instructions.Workdir):
            cwd = os.path.join(cwd, instruction.path)
            found.append(Mkdir(path=cwd, owner=Owner(user=user) if user else None))
        else:
            assert isinstance(instruction, instructions.FilesInstruction)
            who = instruction.chown.partition(":")
            owner = Owner(user=who[0], group=who[2], classic=classic) if instruction.chown else None
            dest = instruction.destination
            dest = dest if dest.startswith("/") else f"{cwd}/{dest}"
            for doc in instruction.heredocs:
                made = Mkfile(path=dest, name=doc.name, data=doc.text().encode(), chmod=instruction.chmod, owner=owner)
                found.append(made)
            if instruction.sources:
                adds = isinstance(instruction, instructions.Add)
                found.append(
                    Copy(
                        source=source,
                        patterns=instruction.sources,
                        dest=dest,
                        owner=owner,
                        chmod=instruction.chmod,
                        unpack=adds and getattr(instruction, "unpack", None) is not False,
                        exclude=instruction.exclude,
                        required=False,
                    )
                )
    return found


def compare(name: str, root: int, op: FileOp, trees: dict[Vertex, Tree], before: dict[str, list[Any]]) -> None:
    answer = ANSWERS[name]["buildkit"]
    if "error" in answer:
        with pytest.raises(SampanError) as caught:
            copy.execute(op, root, trees, (T - 20) * 10**9)
        words = answer["error"].removeprefix("failed to solve: ").removeprefix("rpc error: code = Unknown desc = ")
        words = words.rpartition("::")[2]
        said = words.partition(": ")[2] if "::" in answer["error"] else words
        assert caught.value.message.replace(" /", " ") == said.replace(" /", " ")
        return
    copy.execute(op, root, trees, (T - 20) * 10**9)
    after = listing(root)
    expected = {path: entry for path, entry in before.items() if path not in answer["gone"]} | answer["new"]
    times = {path: entry[6] for path, entry in after.items()}
    assert {p: e[:6] for p, e in after.items()} == {p: e[:6] for p, e in expected.items()}
    for path, entry in answer["new"].items():
        if entry[6] is None:
            assert times[path] + T < NOW_S, path
        else:
            assert times[path] == entry[6], path
    for path in set(before) & set(after) - set(answer["new"]):
        assert times[path] == before[path][6], path


@pytest.mark.root
@pytest.mark.parametrize("name", [name for name in CASES if name not in DIFFERENT])
def test_the_reference_gives_the_same(name: str, root_fd: int, context: Tree) -> None:
    before = listing(root_fd)
    op = FileOp(base=ScratchOp(), actions=tuple(actions(CASES[name], CONTEXT)))
    compare(name, root_fd, op, {CONTEXT: context}, before)


@pytest.mark.root
@pytest.mark.parametrize("name", STAGES)
def test_stages_give_the_same(name: str, root_fd: int, tmp_path: Path) -> None:
    """What is copied from another stage keeps its owners."""
    command, text = STAGES[name]
    stage = tmp_path / "stage"
    stage.mkdir()
    assert (
        os.system(
            f"cd {shlex.quote(str(stage))} && {command.removeprefix('RUN ').replace(' /', ' ./').replace('>/', '>./')}"
        )
        == 0
    )
    for link in (path for path in stage.rglob("*") if path.is_symlink()):
        target = os.readlink(link)
        if target.startswith("./"):  # the command's absolute target
            link.unlink()
            link.symlink_to(target[1:])
    tree = DirTree(str(stage))
    try:
        before = listing(root_fd)
        op = FileOp(base=ScratchOp(), actions=tuple(actions(text, STAGE)))
        compare_without_times(name, root_fd, op, {STAGE: tree}, before)
    finally:
        tree.close()


def compare_without_times(
    name: str, root: int, op: FileOp, trees: dict[Vertex, Tree], before: dict[str, list[Any]]
) -> None:
    answer = ANSWERS[name]["buildkit"]
    if "error" in answer:
        with pytest.raises(SampanError, match="not found"):
            copy.execute(op, root, trees)
        return
    copy.execute(op, root, trees)
    expected = {path: entry for path, entry in before.items() if path not in answer["gone"]} | answer["new"]
    assert {p: e[:6] for p, e in listing(root).items()} == {p: e[:6] for p, e in expected.items()}


@pytest.mark.root
@pytest.mark.parametrize("name", [n for n in CASES if "chown" in n and n not in ("chown_suid", "heredoc_chmod")])
def test_the_classic_builders_owners(name: str, root_fd: int, context: Tree) -> None:
    """Names must be there, parents of a directory stay root's, archives keep their owners; setuid bits are lost."""
    answer = ANSWERS[name].get("classic", ANSWERS[name]["buildkit"])
    op = FileOp(base=ScratchOp(), actions=tuple(actions(CASES[name], CONTEXT, classic=True)))
    if "error" in answer:
        with pytest.raises(UnknownOwner) as caught:
            copy.execute(op, root_fd, {CONTEXT: context})
        assert caught.value.message.strip() == answer["error"].strip()
        return
    before = listing(root_fd)
    copy.execute(op, root_fd, {CONTEXT: context})
    expected = {path: entry for path, entry in before.items() if path not in answer["gone"]} | answer["new"]
    assert {p: e[:6] for p, e in listing(root_fd).items()} == {p: e[:6] for p, e in expected.items()}
