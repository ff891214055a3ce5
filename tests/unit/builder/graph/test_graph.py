"""What the graph decides beyond single Dockerfiles: which stages, which images, contexts, platforms, errors, keys."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytest

from sampan.engine.builder import privileges
from sampan.engine.builder.failures import NotAllowed
from sampan.engine.builder.graph import contexts, document
from sampan.engine.builder.graph.args import global_scope, proxy_env
from sampan.engine.builder.graph.convert import convert
from sampan.engine.builder.graph.values import HistoryEntry, ResolvedImage, Target
from sampan.engine.builder.ops import (
    ArchiveOp,
    Copy,
    FileOp,
    GitOp,
    HttpOp,
    ImageOp,
    LocalOp,
    Mkdir,
    Mkfile,
    Owner,
    RunOp,
    ScratchOp,
    Vertex,
    VertexLabel,
)
from sampan.engine.builder.request import BuildRequest
from sampan.engine.builder.state import LayerChain, Solved
from sampan.engine.platforms import HOST, Platform
from sampan.errors import InvalidArgument, NotFound, SampanError
from sampan.spec import go_values
from sampan.spec.dockerfile.config import DialectName
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.stages import parse

ARM = Platform("linux", "arm64")


class Known:
    """Images that are asked for get an empty configuration, or what `configs` says of them; `nope` does not exist."""

    def __init__(self, **configs: Mapping[str, Any]) -> None:
        self.configs = configs
        self.asked: list[tuple[str, Platform, bool]] = []

    async def image(self, ref: str, platform: Platform, *, pull: bool) -> ResolvedImage:
        self.asked.append((ref, platform, pull))
        if "nope" in ref:
            raise NotFound("pull access denied")
        name = ref.rpartition("/")[2].partition(":")[0]
        config = {"config": self.configs.get(name, {}), "rootfs": {"type": "layers", "diff_ids": []}}
        return ResolvedImage(id=f"sha256:{name}", config=config, ref=ref)


def build(text: str, known: Known | None = None, **more: Any) -> Target:
    more.setdefault("dialect", "buildkit")
    request = BuildRequest(id="t", **more)

    async def ignores() -> dict[str, tuple[str, ...]]:
        return {"context": ("*.md",)}

    return next(iter(asyncio.run(convert(parse(text), request, known or Known(), ignores=ignores)).values()))


def chain(vertex: Vertex) -> list[Vertex]:
    """A stage's vertices, the last first."""
    found = [vertex]
    while isinstance(found[-1], RunOp | FileOp):
        found.append(found[-1].base)
    return found


def test_only_what_the_target_needs_is_looked_at() -> None:
    text = "FROM a AS one\nFROM b AS unused\nFROM c AS two\nCOPY --from=one /x /\nFROM two\nCOPY --from=d /y /\n"
    known = Known()
    target = build(text, known)
    assert sorted(ref for ref, _, _ in known.asked) == [f"docker.io/library/{n}:latest" for n in "acd"]
    assert target.stages == (0, 2, 3)
    known = Known()
    build(text, known, dialect="classic", target="two", pull=True)
    assert sorted((ref.rpartition("/")[2], pull) for ref, _, pull in known.asked) == [
        ("a:latest", True), ("b:latest", True), ("c:latest", True),
    ]  # fmt: skip


def test_onbuild_may_need_more_stages_and_images() -> None:
    known = Known(base={"OnBuild": ["COPY --from=tools /t /", "COPY --from=other /o /"]})
    target = build("FROM x AS tools\nFROM base\n", known)
    assert {ref.rpartition("/")[2] for ref, _, _ in known.asked} == {"x:latest", "base:latest", "other:latest"}
    assert target.stages == (0, 1) and not target.config.get("OnBuild")
    own = build("FROM x AS tools\nFROM y AS base\nONBUILD COPY --from=tools /t /\nFROM base\n")
    assert own.stages == (0, 1, 2) and isinstance(own.vertex, FileOp)


def test_vertices_of_equal_meaning_are_equal() -> None:
    one = build("FROM a\nENV A=b\nCOPY x /\nRUN make\n")
    two = build("FROM a AS named\n# comment\nENV A=$B${A:-b}\n\nCOPY  x  /\nRUN make\n")
    assert one.vertex == two.vertex and one.vertex.label != two.vertex.label
    assert one.vertex != build("FROM a\nENV A=c\nCOPY x /\nRUN make\n").vertex


def test_proxies_are_passed_on_and_in_no_key_and_no_history() -> None:
    text = "FROM a\nRUN make\n"
    plain, proxied = build(text), build(text, build_args={"http_proxy": "http://u:p@h"})
    assert plain.vertex == proxied.vertex
    assert isinstance(proxied.vertex, RunOp)
    assert proxied.vertex.proxy_env == ("HTTP_PROXY=http://u:p@h", "http_proxy=http://u:p@h")
    assert "u:p" not in str(proxied.history[0].created_by) and "u:p" not in str(proxied.vertex.env)
    assert proxy_env({"no_proxy": None, "A": "b"}) == ()


@pytest.mark.parametrize(
    ("from_", "expected"),
    [("x AS s", (HOST, HOST)), ("--platform=$BUILDPLATFORM x", (HOST, ARM)), ("--platform=linux/arm64 x", (ARM, ARM))],
)
def test_platforms(from_: str, expected: tuple[Platform, Platform]) -> None:
    wanted = expected[1] if "BUILDPLATFORM" in from_ else HOST
    known = Known()
    target = build(f"FROM {from_}\nARG TARGETARCH\nENV T=$TARGETARCH\nRUN x\n", known, platforms=(wanted,))
    assert known.asked[0][1] == target.platform == expected[0]
    assert f"T={wanted.architecture}" in target.config["Env"]


def test_several_platforms_have_targets_of_their_own() -> None:
    request = BuildRequest(id="t", dialect="buildkit", platforms=(HOST, ARM))
    targets = asyncio.run(
        convert(parse("FROM --platform=$BUILDPLATFORM a AS b\nRUN x\nFROM c\nCOPY --from=b /x /\n"), request, Known())
    )
    assert list(targets) == [HOST, ARM]
    names = [target.vertex.label.name for target in targets.values()]
    assert names == [f"[{HOST} stage-1 2/2] COPY --from=b /x /", f"[{ARM} stage-1 2/2] COPY --from=b /x /"]
    copies = [target.vertex.actions[0] for target in targets.values() if isinstance(target.vertex, FileOp)]
    assert len({copy.source for copy in copies if isinstance(copy, Copy)}) == 1  # built once for both


def test_named_contexts() -> None:
    given = {
        "context": "local:context",
        "base": "docker-image://registry.example/real:1",
        "stage": "docker-image://other",
        "files": "local:files",
        "repo": "https://host.example/r.git#v1:sub",
        "docker.io/library/busybox:latest": "docker-image://busybox:fixed",
    }
    text = (
        "FROM base\nCOPY --from=files d/a.txt /\nCOPY --from=repo /x /\n"
        "RUN --mount=from=files,target=/m,source=y true\n"
        "FROM alpine AS stage\nRUN gone\nFROM busybox\nCOPY --from=0 /x /\nCOPY --from=stage / /\n"
    )
    known = Known()
    target = build(text, known, contexts=given)
    assert {ref for ref, _, _ in known.asked} == {
        "docker-image://registry.example/real:1",
        "docker-image://other",
        "docker-image://busybox:fixed",
    }
    assert target.paths == {"files": ("/d/a.txt", "/y")}
    first = next(iter(vertex for vertex in _all(target.vertex) if isinstance(vertex, GitOp)))
    assert (first.remote, first.ref, first.subdir) == ("https://host.example/r.git", "v1", "sub")


def _all(vertex: Vertex) -> list[Vertex]:
    found: dict[Vertex, None] = {}
    waiting = [vertex]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found[one] = None
            waiting += one.inputs
    return list(found)


def test_a_directory_may_be_a_base() -> None:
    target = build("FROM files\nRUN x\n", contexts={"context": "local:context", "files": "local:files"})
    run, files, scratch = chain(target.vertex)
    assert isinstance(files, FileOp) and isinstance(scratch, ScratchOp) and isinstance(run, RunOp)
    (copy,) = files.actions
    assert isinstance(copy, Copy) and copy.source == LocalOp(context="files") and copy.dest == "/"


def test_another_target_may_be_a_base() -> None:
    other = RunOp(base=ScratchOp(), args=("made",), env=())
    given = {"context": "local:context", "base": "input:other"}
    document_ = {"config": {"Env": ["A=b"], "Cmd": ["x"]}}
    target = build(
        "FROM base\nRUN echo $A\nCOPY --from=base /m /\n", contexts=given, inputs={"other": (other, document_)}
    )
    assert chain(target.vertex)[2] == other and "A=b" in target.config["Env"] and target.config["Cmd"] == ["x"]
    with pytest.raises(NotFound, match="no input named other"):
        build("FROM base\n", contexts=given)


def test_the_context_is_narrowed_to_what_is_copied() -> None:
    target = build("FROM a\nCOPY ./x/*.c y/ /d/\nADD z /d/\nWORKDIR /w\nCOPY --chown=1 q .\n")
    assert target.paths == {"context": ("/q", "/x", "/y", "/z")}
    (local,) = {vertex for vertex in _all(target.vertex) if isinstance(vertex, LocalOp)}
    assert local.exclude == ("*.md",)
    assert build("FROM a\nRUN --mount=target=/src true\n").paths == {"context": ("/",)}


def test_copy_says_what_it_means() -> None:
    target = build(
        "FROM a\nWORKDIR /w\nUSER u:g\nCOPY --chown=7 --chmod=640 x* y rel/\nWORKDIR sub\nCOPY <<E f\ntext\nE\n"
    )
    file, mkdir, copies, top, _ = chain(target.vertex)
    assert (
        isinstance(file, FileOp)
        and isinstance(mkdir, FileOp)
        and isinstance(copies, FileOp)
        and isinstance(top, FileOp)
    )
    assert file.actions == (Mkfile(path="/w/sub/f", name="E", data=b"text\n"),)
    assert mkdir.actions == (Mkdir(path="/w/sub", owner=Owner(user="u", group="g")),)
    assert top.actions == (Mkdir(path="/w"),)
    found = [(c.patterns, c.dest, c.required, c.owner, c.chmod) for c in copies.actions if isinstance(c, Copy)]
    assert found == [
        (("x*",), "/w/rel/", False, Owner(user="7"), "640"),
        (("y",), "/w/rel/", True, Owner(user="7"), "640"),
    ]


def test_add_knows_urls_and_repositories() -> None:
    target = build(
        "FROM a\nADD https://h.example/p/f.tgz?x=1 git@host.example:r.git#b a.tar /d/\n"
        "ADD --unpack=false --checksum=sha256:" + "0" * 64 + " https://h.example/g /one\n"
    )
    second, first, _ = chain(target.vertex)
    assert isinstance(first, FileOp) and isinstance(second, FileOp)
    http, git, local = [copy for copy in first.actions if isinstance(copy, Copy)]
    assert isinstance(http.source, HttpOp) and http.patterns == ("f.tgz",) and not http.unpack
    assert isinstance(git.source, GitOp) and git.source.ref == "b"
    assert isinstance(local.source, LocalOp) and local.unpack
    (one,) = second.actions
    assert isinstance(one, Copy) and isinstance(one.source, HttpOp) and one.source.checksum.endswith("0" * 64)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("https://h.example/a.git", "git"), ("https://h.example/a.git#main:dir", "git"), ("git@h.example:a/b", "git"),
        ("github.com/a/b", "git"), ("ssh://h.example/x", "git"), ("https://h.example/a.tar", "http"),
        ("local:x", "local"), ("docker-image://x", "docker-image"), ("oci-layout://x", "oci-layout"),
        ("input:x", "input"),
    ],
)  # fmt: skip
def test_context_kinds(text: str, kind: str) -> None:
    assert contexts.parse(text).kind == kind


def test_contexts_of_unknown_kinds_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="unsupported context source foo"):
        contexts.parse("foo:bar")
    assert isinstance(contexts.remote_tree(contexts.parse("https://h.example/a.tar")), ArchiveOp)


WRONG = [
    ("FROM $X\n", r"base name \(\$X\) should not be blank", r"base name \(\$X\) should not be blank", 1),
    ("FROM a\nCOPY --from=9 /x /\n", "invalid stage index 9", "invalid from flag value 9: index out of bounds", 2),
    ("FROM a AS s\nCOPY --from=s /x /\n", "circular dependency detected on stage: s", None, 2),
    (
        "FROM a\nCOPY --from=0 /x /\n",
        "circular dependency detected on stage: stage-0",
        "refers to current build stage",
        2,
    ),
    ("FROM Up:x@y\n", 'failed to parse stage name "Up:x@y": invalid reference format', "^invalid reference format", 1),
    ("FROM --platform=a/b/c/d x\n", "failed to parse platform a/b/c/d", "failed to parse platform a/b/c/d", 1),
    ("FROM --platform=$NO x\n", "empty platform value from expression", "empty platform value from expression", 1),
    (
        "FROM nope\n",
        "nope: failed to resolve source metadata for docker.io/library/nope:latest: pull",
        "^pull access",
        1,
    ),
    (
        "FROM a\n\nRUN --mount=from=nope,target=/x y\n",
        "nope: failed to resolve source metadata",
        "^invalid from flag value nope: pull access",
        3,
    ),
    ("FROM a\nSTOPSIGNAL X\n", "invalid signal: X", "invalid signal: X", 2),
    ("FROM a\nADD --checksum=sha256:" + "0" * 64 + " f /\n", "checksum requires HTTP", "checksum requires HTTP", 2),
    ("FROM a\nRUN --mount=type=tmpfs,target=/ x\n", 'invalid mount target "/"', 'invalid mount target "/"', 2),
]


@pytest.mark.parametrize(("text", "buildkit", "classic", "line"), WRONG)
def test_errors(text: str, buildkit: str, classic: str | None, line: int) -> None:
    for dialect, message in (("buildkit", buildkit), ("classic", classic)):
        if message is None:
            build(text, dialect=dialect)  # the classic builder takes the stage's own name for an image
            continue
        with pytest.raises(SampanError, match=message) as failed:
            build(text, dialect=dialect)
        if isinstance(failed.value, DockerfileError) and failed.value.ranges:
            assert failed.value.line == line


def test_targets_are_named() -> None:
    text = "FROM a AS Build\nENV A=1\nFROM b\n"
    assert "A=1" in build(text, target="bUILD").config["Env"]
    for name, hint in (("0", ""), ("buidl", r" \(did you mean build\?\)")):
        with pytest.raises(InvalidArgument, match=f'target stage "{name}" could not be found{hint}$'):
            build(text, target=name)


def test_privileges_are_asked_for() -> None:
    text = "FROM a\nRUN --network=host x\n"
    with pytest.raises(NotAllowed, match=r"network\.host is not allowed"):
        build(text)
    vertex = build(text, entitlements=frozenset({"network.host"})).vertex
    assert isinstance(vertex, RunOp) and vertex.network == "host"


def test_arguments_that_buildkit_itself_reads() -> None:
    text = "FROM a\nRUN --mount=type=cache,target=/c --mount=type=cache,id=x,target=/d y\n"
    own: dict[str, str | None] = {"BUILDKIT_SANDBOX_HOSTNAME": "own", "BUILDKIT_CACHE_MOUNT_NS": "ns"}
    vertex = build(text, build_args=own).vertex
    assert isinstance(vertex, RunOp) and vertex.hostname == "own"
    assert [mount.id for mount in vertex.mounts] == ["ns//c", "ns/x"]
    plain = build(text).vertex
    assert isinstance(plain, RunOp) and not plain.hostname and [mount.id for mount in plain.mounts] == ["/c", "x"]


def test_sockets_of_agents_are_numbered_among_themselves_and_the_users_variable_stays() -> None:
    text = "FROM a\nRUN --mount=type=cache,target=/c --mount=type=ssh,id=x --mount=type=ssh,id=y z\n"
    vertex = build(text).vertex
    assert isinstance(vertex, RunOp) and "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0" in vertex.env
    assert [(m.id, m.target[-1]) for m in vertex.mounts if m.kind == "ssh"] == [("x", "0"), ("y", "1")]
    own = build("FROM a\nENV SSH_AUTH_SOCK=/own\nRUN --mount=type=ssh z\n").vertex
    assert isinstance(own, RunOp) and [e for e in own.env if e.startswith("SSH")] == ["SSH_AUTH_SOCK=/own"]


def test_a_run_without_a_command() -> None:
    with pytest.raises(DockerfileError, match="arguments are required"):
        build("FROM a\nCMD x\nRUN []\n")
    vertex = build("FROM a\nCMD x\nRUN []\n", dialect="classic").vertex
    assert isinstance(vertex, RunOp) and vertex.args == ("/bin/sh", "-c", "x"), "what the image would run"
    with pytest.raises(DockerfileError, match=r"^no command specified$"):
        build("FROM a\nRUN []\n", dialect="classic")


#: Each privilege through each door: (flag, dialect, what the client says, may it).
PRIVILEGES: list[tuple[str, DialectName, dict[str, Any], bool]] = [
    ("--network=host", "buildkit", {}, False),
    ("--network=host", "buildkit", {"network": "host"}, False),
    ("--network=host", "buildkit", {"entitlements": frozenset({"network.host"})}, True),
    ("--network=host", "buildkit", {"entitlements": frozenset({"security.insecure"})}, False),
    ("--network=host", "classic", {}, False),
    ("--network=host", "classic", {"entitlements": frozenset({"network.host"})}, False),
    ("--network=host", "classic", {"network": "host"}, True),
    ("--network=none", "classic", {}, True),
    ("--network=none", "buildkit", {}, True),
    ("--security=insecure", "buildkit", {}, False),
    ("--security=insecure", "buildkit", {"entitlements": frozenset({"security.insecure"})}, True),
    ("--security=insecure", "buildkit", {"entitlements": frozenset({"network.host"})}, False),
    ("--security=insecure", "classic", {}, False),
    ("--security=insecure", "classic", {"entitlements": frozenset({"security.insecure"})}, False),
    ("--security=sandbox", "classic", {}, True),
    ("--security=sandbox", "buildkit", {}, True),
]


@pytest.mark.parametrize(("flag", "dialect", "request_", "may"), PRIVILEGES)
@pytest.mark.parametrize("above", ["", "FROM a AS other\n", "ARG X=1\n"])
def test_every_privilege_through_every_door(
    flag: str, dialect: DialectName, request_: dict[str, Any], may: bool, above: str
) -> None:
    text = f"{above}FROM a\nRUN {flag} x\n"
    if not may:
        words = "requires BuildKit" if dialect == "classic" else "is not allowed"
        with pytest.raises(NotAllowed, match=words):
            build(text, dialect=dialect, **request_)
        return
    vertex = build(text, dialect=dialect, **request_).vertex
    assert isinstance(vertex, RunOp) and flag in (f"--network={vertex.network}", f"--security={vertex.security}")


@pytest.mark.parametrize("classic", [True, False])
@pytest.mark.parametrize("privilege", ["network.host", "security.insecure"])
@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("daemon", [True, False, None])
def test_a_privilege_needs_client_and_daemon(classic: bool, privilege: str, client: bool, daemon: bool | None) -> None:
    host = privilege == "network.host"
    op = RunOp(
        base=ScratchOp(),
        args=("x",),
        env=(),
        network="host" if host else "default",
        security="sandbox" if host else "insecure",
    )
    builder = {} if daemon is None else {"entitlements": {privilege.replace(".", "-"): daemon}}
    allowed = host if classic else client and (host if daemon is None else daemon)
    given = frozenset({privilege}) if client else frozenset()
    with nullcontext() if allowed else pytest.raises(NotAllowed):
        privileges.check_step(op, classic=classic, entitlements=given, builder=builder)


def test_no_cache_by_stage() -> None:
    text = "FROM a AS one\nRUN x\nFROM one AS two\nRUN y\n"
    flags = {
        choice: [v.no_cache for v in chain(build(text, no_cache=choice).vertex)[:2]] for choice in (None, (), ("ONE",))
    }
    assert flags == {None: [False, False], (): [True, True], ("ONE",): [False, True]}


def test_global_arguments() -> None:
    dockerfile = parse("ARG A=1\nARG B=$A-2\nARG C\nFROM x\n")
    scope, own = global_scope(dockerfile.meta_args, {"A": "9", "TARGETARCH": "odd"}, HOST, "last", escape="\\")
    assert own == {"A": "9", "B": "9-2"}
    assert (scope["TARGETARCH"], scope["BUILDARCH"], scope["TARGETSTAGE"]) == ("odd", HOST.architecture, "last")


def test_unused_arguments_are_named() -> None:
    target = build(
        "ARG G\nFROM a\nARG U\n", dialect="classic", build_args={"G": "1", "U": "2", "X": "3", "HTTP_PROXY": "4"}
    )
    assert target.unused_args == ("X",)


def test_triggers_and_labels_are_steps_of_the_classic_dialect() -> None:
    known = Known(base={"OnBuild": ["ENV T=1", "RUN t"]})
    target = build(
        "ARG V=base\nFROM $V AS s\nRUN x\nFROM s\nCMD y\n", known, dialect="classic", labels={"b": "2", "a": "1"}
    )
    shown = [(step.text, step.trigger, step.triggers, step.stage, step.stage_end) for step in target.steps]
    assert shown == [
        ("ARG V=base", False, 0, -1, False),
        ("FROM $V AS s", False, 2, 0, False),
        ("", True, 0, 0, False),
        ("", True, 0, 0, False),
        ("RUN x", False, 0, 0, True),
        ("FROM s", False, 0, 1, False),
        ("CMD y", False, 0, 1, False),
        ("LABEL a=1", False, 0, 1, False),
        ("LABEL b=2", False, 0, 1, True),
    ]
    assert target.steps[5].parent_stage == 0 and target.steps[5].base is not None
    assert target.steps[3].command == ("/bin/sh", "-c", "t") and target.steps[3].runs


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1500, "1.5µs"),
        (20_000_000, "20ms"),
        (90 * 10**9, "1m30s"),
        (3_661_500_000_000, "1h1m1.5s"),
    ],
)
def test_durations_are_gos(ns: int, text: str) -> None:
    assert go_values.duration(ns) == text


def test_times_are_those_of_the_input() -> None:
    base = ResolvedImage(
        id="i",
        ref="r",
        config={
            "created": "2020-01-01T00:00:00.5Z", "architecture": "amd64", "os": "linux",
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "base"}],
            "rootfs": {"type": "layers", "diff_ids": ["sha256:0"]},
        },
    )  # fmt: skip
    image = ImageOp(ref="r", image_id="i", platform=HOST)
    old = FileOp(base=image, actions=(), label=VertexLabel(name="old"))
    new = FileOp(base=old, actions=(), label=VertexLabel(name="new"))
    nothing = RunOp(base=new, args=("true",), env=())
    solved: dict[Vertex, Solved] = {
        old: Solved(state=LayerChain(diff_ids=("sha256:0", "sha256:1")), time_ns=1),
        new: Solved(state=LayerChain(diff_ids=("sha256:0", "sha256:1", "sha256:2")), time_ns=1_700_000_000 * 10**9),
        nothing: Solved(state=LayerChain(diff_ids=("sha256:0", "sha256:1", "sha256:2")), time_ns=0),
    }
    history = [
        HistoryEntry(created_by="a", vertex=old),
        HistoryEntry(created_by="b", vertex=new),
        HistoryEntry(created_by="c", vertex=nothing),
        HistoryEntry(created_by="d"),
    ]
    made = document.document(base, history, {}, solved, platform=HOST, dialect="buildkit")
    assert [entry["created"] for entry in made["history"]] == [
        "2020-01-01T00:00:00Z", "2020-01-01T00:00:00.5Z", *["2023-11-14T22:13:20Z"] * 3,
    ]  # fmt: skip
    assert [entry.get("empty_layer", False) for entry in made["history"]] == [False, False, False, True, True]
    assert made["rootfs"]["diff_ids"] == ["sha256:0", "sha256:1", "sha256:2"]
    fixed = document.document(base, history, {}, solved, platform=HOST, dialect="buildkit", epoch_s=7)
    assert [entry["created"] for entry in fixed["history"]][1:] == ["1970-01-01T00:00:07Z"] * 4 and fixed["created"][
        -4:
    ] == ":07Z"
