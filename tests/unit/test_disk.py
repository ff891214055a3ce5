"""The disk service's decisions: what a check calls stray or lost, and which images a budget takes."""

from __future__ import annotations

import os
from pathlib import Path

from sampan.engine import findings
from sampan.engine.disk import usage
from sampan.engine.disk.budget import Candidate, choose
from sampan.engine.findings import Problem
from sampan.engine.store import Ref


def test_the_longest_unused_images_go_first_and_no_more_than_needed() -> None:
    candidates = [
        Candidate(image="new", used="2026-03-01T00:00:00Z", layers=("base", "n")),
        Candidate(image="old", used="2026-01-01T00:00:00Z", layers=("base", "o")),
        Candidate(image="middle", used="2026-02-01T00:00:00Z", layers=("base", "m")),
    ]
    users = {"base": 3, "n": 1, "o": 1, "m": 1}
    sizes = {"base": 100, "n": 10, "o": 10, "m": 10}
    assert choose(0, candidates, users, sizes) == []
    assert choose(5, candidates, users, sizes) == ["old"]
    assert choose(15, candidates, users, sizes) == ["old", "middle"]
    assert choose(31, candidates, users, sizes) == ["old", "middle", "new"], (
        "a shared layer comes back with its last user"
    )
    assert choose(10**6, candidates, users, sizes) == ["old", "middle", "new"]
    in_use = {**users, "base": 4}  # a container stands on it
    assert choose(31, candidates, in_use, sizes) == ["old", "middle", "new"]


def test_references_without_a_holder_are_dropped_and_lost_targets_are_named() -> None:
    there = {"image:a", "layer:1", "work:7"}
    known = ("image", "layer", "work")
    pairs = [("image:a", "layer:1"), ("image:gone", "layer:1"), ("image:a", "layer:lost"), ("work:7", "layer:1"),
             ("work:8", "layer:1"), ("plugin:x", "network:y")]  # fmt: skip
    found = findings.references(
        [(Ref.parse(holder), Ref.parse(target)) for holder, target in pairs],
        lambda ref: str(ref) in there if ref.noun in known else None,
    )
    assert [(f.id, f.problem, f.repairable) for f in found] == [
        ("image:a → layer:lost", Problem.MISSING, False),
        ("image:gone → layer:1", Problem.UNREFERENCED, True),
        ("work:8 → layer:1", Problem.UNREFERENCED, True),
    ]


def test_allocated_counts_blocks_once_and_leaves_out_what_it_is_told(tmp_path: Path) -> None:
    tree = tmp_path / "t"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/f").write_bytes(b"x" * 10_000)
    os.link(tree / "a/f", tree / "a/b/again")
    (tree / "sparse").touch()
    os.truncate(tree / "sparse", 1 << 30)
    os.symlink("/", tree / "a/root")
    every = [tree, tree / "a", tree / "a/b", tree / "a/f", tree / "sparse", tree / "a/root"]
    expected = sum(p.lstat().st_blocks * 512 for p in every)
    assert usage.allocated(str(tree)) == expected < 1 << 20
    spared = (tree / "a/b").lstat().st_blocks * 512
    assert usage.allocated(str(tree), but=[str(tree / "a/b")]) == expected - spared
    assert usage.allocated(str(tmp_path / "nothing")) == 0
