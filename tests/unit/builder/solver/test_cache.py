"""What a step's key covers, what a prune takes, and which policies daemon.json comes to. Pure."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.builder.ops import Copy, FileOp, Limits, LocalOp, RunMount, RunOp, ScratchOp, Vertex
from sampan.engine.builder.solver import inputs, keys, policy
from sampan.engine.builder.solver.cache import NO_BOUNDS, CacheUsage, Space, duration_ns, matcher, order
from sampan.engine.builder.solver.records import CacheRecord
from sampan.engine.builder.solver.run import Tail
from sampan.engine.builder.solver.solver import postorder
from sampan.engine.builder.state import LayerChain, Solved
from sampan.engine.platforms import Platform
from sampan.errors import InvalidArgument

BASE = ScratchOp()
CONTEXT = LocalOp(context="context")
SOLVED: dict[Vertex, Solved] = {BASE: Solved(state=LayerChain(chain_id="sha256:base")), CONTEXT: Solved()}
HOUR = 3600 * 10**9


def run_key(solved: dict[Vertex, Solved] | None = None, **fields: Any) -> str:
    op = RunOp(**{"base": BASE, "args": ("make",), "env": ("A=1",), **fields})
    return keys.of_run(op, solved or SOLVED, {CONTEXT: "sum"})


def test_the_key_of_a_run_covers_the_whole_operation_and_its_base() -> None:
    variants = [
        run_key(),
        run_key({BASE: Solved(state=LayerChain(chain_id="sha256:other"))}),
        run_key(args=("make", "all")),
        run_key(env=("A=2",)),
        run_key(cwd="/src"),
        run_key(user="nobody"),
        run_key(network="none"),
        run_key(security="insecure"),
        run_key(hostname="h"),
        run_key(extra_hosts=(("a", "10.0.0.1"),)),
        run_key(platform=Platform(os="linux", architecture="arm64")),
        run_key(epoch_s=0),
        run_key(mounts=(RunMount(kind="cache", target="/c"),)),
        run_key(mounts=(RunMount(kind="secret", target="/c", id="x"),)),
        run_key(mounts=(RunMount(kind="bind", target="/c", source=CONTEXT),)),
    ]
    assert len(set(variants)) == len(variants)
    other = keys.of_run(
        RunOp(base=BASE, args=("make",), env=("A=1",), mounts=(RunMount(kind="bind", target="/c", source=CONTEXT),)),
        SOLVED,
        {CONTEXT: "another sum"},
    )
    assert other not in variants


def test_what_is_no_part_of_a_result_is_no_part_of_its_key() -> None:
    proxies = ("HTTP_PROXY=http://secret@proxy",)
    assert run_key() == run_key(limits=Limits(memory_bytes=1 << 30), proxy_env=proxies, no_cache=True)


def test_every_field_of_a_run_is_covered_or_named_here() -> None:
    display = {f.name for f in dataclasses.fields(RunOp) if f.metadata.get("display")}
    assert display == {"label", "no_cache", "limits", "proxy_env"}


@pytest.mark.parametrize("operation", inputs.INPUTS)
def test_every_input_of_a_step_has_a_row_that_says_why(operation: type) -> None:
    rows = inputs.INPUTS[operation]
    assert {f.name for f in dataclasses.fields(operation)} == set(rows), "a field without a row, or a row without one"
    assert all(row.because for row in rows.values())


#: One field changed: does the step run again? Docker Engine 28.5.2, buildx 0.29 and its classic builder.
ASKED = [
    ("RunOp", {"limits": Limits(ulimits=(("nofile", 100, 100),))}, True, False),
    ("RunOp", {"limits": Limits(shm_size_bytes=32 << 20)}, True, False),
    ("RunOp", {"limits": Limits(cgroup_parent="/foo")}, True, False),
    ("RunOp", {"limits": Limits(memory_bytes=100 << 20)}, False, False),
    ("RunOp", {"limits": Limits(cpu_shares=100)}, False, False),
    ("RunOp", {"extra_hosts": (("a", "10.0.0.1"),)}, True, False),
    ("RunOp", {"network": "none"}, True, False),
    ("RunOp", {"hostname": "foo"}, True, False),
    ("cache", {"id": "b"}, False, False),
    ("cache", {"sharing": "locked"}, False, False),
    ("cache", {"uid": 5}, True, True),
    ("cache", {"gid": 5}, True, True),
    ("cache", {"mode": 0o700}, True, True),
    ("cache", {"read_only": True}, True, True),
    ("cache", {"target": "/d"}, True, True),
    ("secret", {"id": "b"}, True, True),
    ("secret", {"mode": 0o444}, True, True),
    ("secret", {"uid": 3}, True, True),
    ("secret", {"target": "/q"}, True, True),
    ("secret", {"env": "Q"}, True, True),
    ("ssh", {"id": "b"}, True, True),
    ("ssh", {"mode": 0o666}, True, True),
    ("ssh", {"uid": 3}, True, True),
    ("ssh", {"target": "/q"}, True, True),
    ("tmpfs", {"size_bytes": 4 << 20}, True, True),
]


@pytest.mark.parametrize(("what", "change", "buildkit", "classic"), ASKED)
def test_one_field_changed_runs_a_step_again_where_the_reference_does(
    what: str, change: dict[str, Any], buildkit: bool, classic: bool
) -> None:
    for door, again in ((False, buildkit), (True, classic)):

        def key(fields: dict[str, Any], door: bool = door) -> str:
            own = fields if what == "RunOp" else {}
            mounts = () if what == "RunOp" else (RunMount(**{"kind": what, "target": "/c", "id": "a", **fields}),)
            op = RunOp(**{"base": BASE, "args": ("make",), "env": (), "mounts": mounts, **own})
            return keys.of_run(op, SOLVED, {}, classic=door)

        assert (key({}) != key(change)) is again, "classic" if door else "buildkit"


def test_a_run_of_one_builder_is_none_of_the_other() -> None:
    op = RunOp(base=BASE, args=("make",), env=())
    assert keys.of_run(op, SOLVED, {}) != keys.of_run(op, SOLVED, {}, classic=True)


def test_the_key_of_a_copy_is_what_it_copies_and_where_to() -> None:
    def key(checksum: str = "sum", *, link: bool = False, **fields: Any) -> str:
        copy = Copy(**{"source": CONTEXT, "patterns": ("a",), "dest": "/d/", **fields})
        return keys.of_files(FileOp(base=BASE, actions=(copy,), link=link), SOLVED, lambda _: checksum)

    assert key() == key(patterns=("b",)), "the checksum has the names as they land"
    assert len({key(), key("other"), key(dest="/d"), key(chmod="755"), key(unpack=True), key(link=True)}) == 6
    copy = Copy(source=CONTEXT, patterns=("a",), dest="/d/")
    elsewhere: dict[Vertex, Solved] = {BASE: Solved(state=LayerChain(chain_id="sha256:other"))}
    linked = FileOp(base=BASE, actions=(copy,), link=True)
    assert keys.of_files(linked, elsewhere, lambda _: "sum") == key(link=True), "COPY --link depends on no base"


def test_inputs_come_first_and_once_however_long_the_chain_is() -> None:
    chain: list[Vertex] = [BASE]
    for number in range(3000):
        chain.append(RunOp(base=chain[-1], args=(str(number),), env=()))
    assert postorder([chain[-1], chain[5]]) == chain


def usage(id: str, *, used: int = 0, size: int = 10, parents: tuple[str, ...] = (), **fields: Any) -> CacheUsage:
    shared, in_use = fields.pop("shared", False), fields.pop("in_use", False)
    record = CacheRecord(id=id, key=id, used_ns=used * HOUR, parents=parents, **fields)
    return CacheUsage(record=record, size_bytes=size, in_use=in_use, shared=shared)


def test_the_longest_unused_goes_first_and_no_parent_before_its_children() -> None:
    old_parent = usage("p", used=1)
    child, other = usage("c", used=5, parents=("p",)), usage("o", used=3)
    everything = [old_parent, child, other]
    assert [u.record.id for u in order(everything, everything)] == ["o", "c", "p"]
    assert [u.record.id for u in order([old_parent, other], everything)] == ["o"], "its child stays, so it stays"


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({}, "abc"),
        ({"id": ["a"]}, "a"),
        ({"type": ["exec.cachemount"]}, "b"),
        ({"until": ["5h"]}, "a"),
        ({"unused-for": ["5h"]}, "a"),
        ({"description": ["make"]}, "c"),
        ({"shared": ["true"]}, "c"),
        ({"private": ["true"]}, "ab"),
        ({"inuse": ["true"]}, "b"),
        ({"inuse": ["0"]}, "ac"),
        ({"parent": ["a"]}, "c"),
        ({"type": ["regular"], "shared": ["false"]}, "a"),
    ],
)
def test_filters(filters: dict[str, list[str]], ids: str) -> None:
    records = [
        usage("a", used=1),
        usage("b", used=9, kind="exec.cachemount", in_use=True),
        usage("c", used=8, description="RUN make", parents=("a",), shared=True),
    ]
    matches = matcher(filters)
    assert "".join(u.record.id for u in records if matches(u, 10 * HOUR)) == ids


@pytest.mark.parametrize("filters", [{"colour": ["red"]}, {"until": ["1h", "2h"]}, {"until": ["soon"]}])
def test_bad_filters(filters: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidArgument):
        matcher(filters)


def test_durations_as_go_writes_them() -> None:
    assert (
        duration_ns("1h30m") == 5400 * 10**9
        and duration_ns("1.5s") == 1_500_000_000
        and duration_ns("60") == 60 * 10**9
    )


@pytest.mark.parametrize(
    ("space", "total", "free", "keep"),
    [
        (NO_BOUNDS, 100, 0, 0),
        (Space(reserved_bytes=30), 100, 0, 30),
        (Space(max_used_bytes=60), 100, 0, 60),
        (Space(max_used_bytes=60, reserved_bytes=80), 100, 0, 80),
        (Space(min_free_bytes=50), 100, 20, 70),
        (Space(min_free_bytes=50, max_used_bytes=40), 100, 20, 40),
        (Space(min_free_bytes=500, reserved_bytes=10), 100, 20, 10),
    ],
)
def test_how_much_a_prune_leaves(space: Space, total: int, free: int, keep: int) -> None:
    assert space.keep_bytes(total, free) == keep


def test_policies(tmp_path: Path) -> None:
    assert policy.of({"gc": {"enabled": False}}, str(tmp_path)) == []
    assert [p.all for p in policy.of({}, str(tmp_path))] == [False, False, False, True]
    asked = {
        "gc": {
            "enabled": True,
            "policy": [
                {"keepStorage": "10GB", "filter": ["unused-for=2200h"]},
                {"maxUsedSpace": "50%", "filter": {"type": {"exec.cachemount": True}}, "all": True},
            ],
        }
    }
    first, second = policy.of(asked, str(tmp_path))
    assert first.filters == {"unused-for": ["2200h"]} and first.space.reserved_bytes == 10 * 1024**3 and not first.all
    assert second.filters == {"type": ["exec.cachemount"]} and second.space.max_used_bytes > 0 and second.all
    with pytest.raises(InvalidArgument, match="invalid size: 'lots'"):
        policy.of({"gc": {"defaultKeepStorage": "lots"}}, str(tmp_path))


def test_the_tail_of_an_output_is_bounded() -> None:
    tail = Tail.new()
    for number in range(1000):
        tail.add(b"line %d\n" % number)
    tail.add(b"half a li")
    assert tail.text().split(b"\n")[0] == b"line 980" and tail.text().endswith(b"\nhalf a li")
    tail.add(b"x" * 10_000_000)
    assert len(tail.text()) <= 16 * 1024
