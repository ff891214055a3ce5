"""The pure parts of BuildKit's door: options, usage records, filters, answers to questions, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sampan.engine.builder import questions
from sampan.engine.builder.buildkit import builds, listing, options, provenance, usage, worker
from sampan.engine.builder.buildkit.details import details_of
from sampan.engine.builder.buildkit.options import Asked, to_request
from sampan.engine.builder.buildkit.protos import control_pb2 as pb
from sampan.engine.builder.buildkit.protos import ops_pb2
from sampan.engine.builder.checking import Checked
from sampan.engine.builder.failures import BuildFailure, StepFailed
from sampan.engine.builder.ops import ImageOp, Limits, ScratchOp
from sampan.engine.builder.progress import BuildWarning
from sampan.engine.builder.request import CacheEnd
from sampan.engine.platforms import Platform
from sampan.errors import Internal, InvalidArgument, NotImplemented_


def asked(**attrs: str) -> Asked:
    return Asked(session="s", attrs={key.replace("__", ":").replace("_", "-"): value for key, value in attrs.items()})


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_clients_options_are_a_request() -> None:
    made = to_request(
        Asked(
            session="s",
            attrs={
                "filename": "D",
                "target": "t",
                "build-arg:A": "1",
                "label:l": "v",
                "platform": "linux/amd64,linux/arm64",
                "no-cache": "",
                "image-resolve-mode": "pull",
                "add-hosts": "a=1.2.3.4,b=host-gateway",
                "force-network-mode": "none",
                "shm-size": "1048576",
                "ulimit": "nofile=10:20,core=0",
                "cgroup-parent": "/p",
                "hostname": "h",
                "context:other": "docker-image://busybox",
                "cache-imports": '[{"Type":"local","Attrs":{"src":"x"}}]',
                "build-arg:SOURCE_DATE_EPOCH": "5",
                "attest:provenance": "mode=max",
            },
        ),
        "ref",
        outputs=options.outputs([("moby", {"name": "a, b:1"}), ("oci", {"dest": "x"})]),
        entitlements=["network.host"],
    )
    assert (made.id, made.dialect, made.filename, made.target) == ("ref", "buildkit", "D", "t")
    assert made.build_args == {"A": "1", "SOURCE_DATE_EPOCH": "5"}
    assert made.epoch_s == 5
    assert made.labels == {"l": "v"}
    assert made.platforms == (Platform("linux", "amd64"), Platform("linux", "arm64"))
    assert made.no_cache == ()
    assert made.pull
    assert made.extra_hosts == (("a", "1.2.3.4"), ("b", "host-gateway"))
    assert made.network == "none"
    assert made.limits == Limits(
        shm_size_bytes=1048576, ulimits=(("nofile", 10, 20), ("core", 0, 0)), cgroup_parent="/p"
    )
    assert made.contexts == {"context": "local:context", "other": "docker-image://busybox"}
    assert made.cache_from == (CacheEnd(type="local", attrs={"src": "x"}),)
    assert [(output.type, output.exporter) for output in made.outputs] == [("image", 0), ("oci", 1)]
    assert made.tags == ("a", "b:1")
    assert made.entitlements == {"network.host"}


def test_nothing_said_is_a_plain_build() -> None:
    made = to_request(asked(), "r")
    assert (made.filename, made.no_cache, made.pull, made.network) == ("Dockerfile", None, False, "default")
    assert options.outputs([])[0].type == "cacheonly"
    assert to_request(asked(no_cache="a,b"), "r").no_cache == ("a", "b")


@pytest.mark.parametrize(
    ("attrs", "said"),
    [
        ({"force-network-mode": "moon"}, "invalid netmode moon"),
        ({"add-hosts": "alone"}, "invalid key-value pair alone"),
        ({"shm-size": "big"}, 'failed to parse shm-size: strconv.ParseInt: parsing "big": invalid syntax'),
        ({"cache-imports": "{"}, "failed to unmarshal cache-imports"),
        ({"context:x": "input:y"}, "invalid input y for x"),
    ],
)
def test_what_cannot_be_read_is_named(attrs: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidArgument, match="^" + said.replace("(", r"\(")):
        to_request(Asked(session="s", attrs=attrs), "r")


def test_inputs_stand_for_contexts() -> None:
    made = to_request(
        Asked(session="s", attrs={"context:base": "input:b"}, inputs={"b": "docker-image://sha256:1"}), "r"
    )
    assert made.contexts["base"] == "docker-image://sha256:1"


# ── definitions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_definition_of_one_source_is_read_back() -> None:
    source = builds.source_of(builds.definition("docker-image://docker.io/library/busybox:latest"))
    assert builds.context_of(source) == "docker-image://docker.io/library/busybox:latest"
    assert builds.context_of(ops_pb2.SourceOp(identifier="local://src")) == "local:src"
    git = ops_pb2.SourceOp(identifier="git://h/r.git", attrs={"git.fullurl": "https://h/r.git"})
    assert builds.context_of(git) == "https://h/r.git"


def test_steps_of_llb_are_refused_by_name() -> None:
    made = ops_pb2.Definition()
    getattr(made, "def").append(ops_pb2.Op(exec=b"").SerializeToString())
    with pytest.raises(NotImplemented_, match=r"LLB steps \(exec\)"):
        builds.source_of(made)
    with pytest.raises(NotImplemented_, match="unsupported source blob://x"):
        builds.context_of(ops_pb2.SourceOp(identifier="blob://x"))
    with pytest.raises(InvalidArgument, match="empty definition"):
        builds.source_of(ops_pb2.Definition())


# ── the cache ────────────────────────────────────────────────────────────────────────────────────────────────────────

CACHE = {
    "ID": "abc", "Type": "regular", "Description": "[2/2] RUN make", "InUse": True, "Shared": False, "Size": 5,
    "CreatedAt": "2026-11-23T23:33:08.560776680Z", "LastUsedAt": None, "UsageCount": 3, "Parents": ["p"],
}  # fmt: skip


def test_a_record_of_the_cache() -> None:
    made = usage.record(CACHE)
    assert (made.ID, made.RecordType, made.Size, made.UsageCount, list(made.Parents)) == ("abc", "regular", 5, 3, ["p"])
    assert (made.CreatedAt.seconds, made.CreatedAt.nanos // 1000) == (1795476788, 560776)
    assert not made.HasField("LastUsedAt")
    assert usage.record({**CACHE, "Type": "exec.cachemount"}).Mutable


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        ([], True),
        (["type==regular"], True),
        (["type==source.local,type==regular"], False),
        (["type==source.local", "type==regular"], True),
        (["id~=b,inuse"], True),
        (["id!=abc"], False),
        (["private"], True),
        (["shared"], False),
        (["mutable"], False),
        (["immutable"], True),
        (["description~=make"], True),
        (["parents==p"], True),
    ],
)
def test_containerds_filters(filters: list[str], holds: bool) -> None:
    assert usage.matches(usage.record(CACHE), filters) is holds


def test_unknown_filters_are_refused() -> None:
    for text in ("nonsense", "colour==red"):
        with pytest.raises(InvalidArgument, match="invalid filter"):
            usage.matches(usage.record(CACHE), [text])


def test_prune_takes_what_the_filters_match() -> None:
    request = pb.PruneRequest(all=True, keepDuration=3600 * 10**9, maxUsedSpace=7)
    made = usage.prune_arguments(request, ["type==regular"], [usage.record(CACHE)])
    assert made["filters"] == {"id": ["abc"], "until": ["3600s"]}
    assert (made["all"], made["space"].max_used_bytes) == (True, 7)


# ── history ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def history(**fields: Any) -> pb.BuildHistoryRecord:
    record = pb.BuildHistoryRecord(Ref="r", FrontendAttrs={"vcs:source": "https://h/x"}, **fields)
    record.CreatedAt.FromSeconds(1000)
    record.CompletedAt.FromSeconds(1090)
    return record


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("status=completed", True),
        ("status==error", False),
        ("status!=error", True),
        ("repository~=^https", True),
        ("ref=other", False),
        ("duration>1m", True),
        ("duration>2m", False),
        ("startedAt<24h", True),
        ("completedAt>2020-01-01T00:00:00Z", False),
    ],
)
def test_history_filters(text: str, holds: bool) -> None:
    assert listing.wanted(pb.BuildHistoryRequest(Filter=[text]))(history()) is holds


def test_history_filters_that_make_no_sense() -> None:
    for text in ("nope", "colour=red", "duration>soon"):
        with pytest.raises(InvalidArgument, match="invalid"):
            listing.wanted(pb.BuildHistoryRequest(Filter=[text]))


def test_a_reference_means_that_build_alone() -> None:
    assert listing.wanted(pb.BuildHistoryRequest(Ref="r"))(history())
    assert not listing.wanted(pb.BuildHistoryRequest(Ref="q"))(history())


# ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────────

WARNING = BuildWarning(
    key="k",
    rule="FromAsCasing",
    message="'as' and 'FROM' keywords' casing do not match",
    description="The 'as' keyword should match the case of the 'from' keyword",
    url="https://docs.docker.com/go/dockerfile/rule/from-as-casing/",
    ranges=((1, 1),),
    filename="Dockerfile",
    source=b"FROM busybox as x\n",
)


def test_lint_answers_json_a_text_and_a_status() -> None:
    found = questions.lint(Checked(warnings=[WARNING]))
    document = json.loads(found["result.json"])
    assert document["warnings"][0]["ruleName"] == "FromAsCasing"
    assert document["warnings"][0]["location"] == {"ranges": [{"start": {"line": 1}, "end": {"line": 1}}]}
    assert document["sources"][0]["data"] == "RlJPTSBidXN5Ym94IGFzIHgK"
    assert found["result.statuscode"] == b"1"
    assert (
        found["result.txt"]
        .decode()
        .startswith(
            "\nWARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/\n"
            "'as' and 'FROM' keywords' casing do not match\nDockerfile:1\n--------------------\n"
            "   1 | >>> FROM busybox as x\n"
        )
    )
    assert questions.lint(Checked())["result.statuscode"] == b"0"


def test_lint_says_why_it_cannot_be_built() -> None:
    cause = InvalidArgument("unknown instruction: RUNN")
    error = BuildFailure(cause, lines=((1, 1),), source=b"RUNN\n", filename="Dockerfile")
    found = questions.lint(Checked(error=error))
    document = json.loads(found["result.json"])
    assert document["warnings"] is None
    assert document["buildError"] == {
        "message": "unknown instruction: RUNN",
        "location": {"ranges": [{"start": {"line": 1}, "end": {"line": 1}}]},
    }
    assert document["sources"][0]["data"] == "UlVOTgo="
    assert found["result.statuscode"] == b"1"


def test_tables_stand_as_gos_tabwriter_sets_them() -> None:
    found = questions.targets({"targets": [{"name": "build"}, {"name": "final", "default": True, "description": "d"}]})
    assert found["result.txt"] == b"TARGET          DESCRIPTION\nbuild           \nfinal (default) d\n"
    assert found["version"] == b"1.0.0"
    assert questions.describe()["result.txt"].decode().splitlines() == [
        "NAME                 VERSION DESCRIPTION",
        "outline              1.0.0   List all parameters current build target supports",
        "targets              1.0.0   List all targets current build supports",
        "subrequests.describe 1.0.0   List available subrequest types",
    ]


def test_an_outline_as_text() -> None:
    found = questions.outline(
        {
            "name": "final",
            "args": [{"name": "BASE", "value": "busybox"}],
            "secrets": [{"name": "tok", "required": True}],
        }
    )
    assert found["result.txt"].decode() == (
        "TARGET:      final\n\nBUILD ARG   VALUE     DESCRIPTION\nBASE        busybox   \n\nSECRET   REQUIRED\n"
        "tok      true\n\n"
    )


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_error_knows_its_lines_and_its_step() -> None:
    assert details_of(Internal("no")) == []
    vertex = ScratchOp()
    error = BuildFailure(StepFailed(["x"], 7), vertex=vertex, lines=((2, 3),), source=b"x\n", filename="D")
    found = {one.type_url: json.loads(one.value) for one in details_of(error)}
    prefix = "github.com/moby/buildkit/"
    assert found[prefix + "errdefs.Source+json"] == {
        "info": {"filename": "D", "data": "eAo=", "language": "Dockerfile"},
        "ranges": [{"start": {"line": 2}, "end": {"line": 3}}],
    }
    assert found[prefix + "errdefs.Vertex+json"] == {"digest": vertex.digest}
    assert found[prefix + "gatewayapi.ExitMessage+json"] == {"Code": 7}


# ── the worker, provenance ───────────────────────────────────────────────────────────────────────────────────────────


def test_limits_are_shares_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk:
        f_blocks, f_frsize = 270553174016 // 4096, 4096

    monkeypatch.setattr("os.statvfs", lambda path: Disk)
    first, second, third, last = worker.policies("/")
    assert first.maxUsedSpace == 3592570859
    assert (second.reservedSpace, second.maxUsedSpace, second.minFreeSpace) == (26 * 10**9, 202 * 10**9, 51 * 10**9)
    assert third.maxUsedSpace == second.maxUsedSpace
    assert last.all


def test_materials_are_what_came_from_elsewhere() -> None:
    image = ImageOp(ref="docker.io/library/busybox:latest", image_id="sha256:aa", platform=Platform("linux", "amd64"))
    assert provenance.materials([image, image]) == [
        {"uri": "pkg:docker/busybox@latest?platform=linux%2Famd64", "digest": {"sha256": "aa"}}
    ]
