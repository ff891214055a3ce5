"""What a text becomes: nodes, typed instructions, stages; and what stays for later."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.spec.dockerfile import config, stages
from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile.errors import DockerfileError, Range, excerpt
from sampan.spec.dockerfile.mounts import MountFlag
from sampan.spec.dockerfile.words import Variables


def one(text: str) -> Any:
    """The only instruction of a stage."""
    (instruction,) = stages.parse(f"FROM x\n{text}\n").stages[0].instructions
    return instruction


def expanded(text: str, **env: str) -> Any:
    return one(text).expanded(Variables(env))


def test_directives_arguments_and_stages() -> None:
    dockerfile = stages.parse(
        "# syntax=docker/dockerfile:1\n# check=skip=all\n# escape=`\n# a comment\nARG V=1 W\n"
        "# base what it is for\nFROM --platform=$P img:$V AS Base\nRUN a `\n  b\nFROM base\nCOPY --from=0 a b\n"
    )
    assert [(d.name, d.value, d.range.start) for d in dockerfile.directives] == [
        ("syntax", "docker/dockerfile:1", 1), ("check", "skip=all", 2), ("escape", "`", 3),
    ]  # fmt: skip
    assert dockerfile.escape == "`"
    assert [(a.key, a.value) for line in dockerfile.meta_args for a in line.arguments] == [("V", "1"), ("W", None)]
    first, second = dockerfile.stages
    assert (first.name, first.base, first.platform, first.start.comment) == ("base", "img:$V", "$P", "what it is for")
    assert (first.range, first.instructions[0].range) == (Range(7, 7), Range(8, 9))
    assert first.instructions[0].source == "RUN a   b"
    assert (second.name, second.index) == ("", 1)
    assert dockerfile.stage("BASE") is first
    assert dockerfile.stage("1") is second
    assert dockerfile.stage("2") is None and dockerfile.stage("x") is None and dockerfile.stage("٣") is None


def test_of_stages_with_one_name_the_last_counts() -> None:
    dockerfile = stages.parse("FROM a AS x\nFROM b AS x\n")
    found = dockerfile.stage("x")
    assert found is not None and found.base == "b"


def test_comments_say_what_a_target_or_argument_is_for() -> None:
    dockerfile = stages.parse("# V the version\nARG V\n#\n# other\nFROM x\n# N is N\nARG N=1 M\n")
    assert dockerfile.meta_args[0].arguments[0].comment == "the version"
    (arg,) = dockerfile.stages[0].instructions
    assert isinstance(arg, i.Arg) and [a.comment for a in arg.arguments] == ["is N", ""]


def test_run_with_all_its_flags() -> None:
    run = one('RUN --network=none --security=insecure --mount=type=cache,target=/c --mount=from=s,target=/x ["a", "b"]')
    assert (run.network, run.security) == ("none", "insecure")
    assert run.command == i.Command(("a", "b"), shell=False)
    assert [(m.type, m.from_) for m in run.mounts] == [("cache", ""), ("bind", "s")]
    assert run.flags_used == ("network", "security", "mount")


def test_a_mount_with_every_option() -> None:
    run = expanded(
        "RUN --mount=type=cache,from=s,source=$S,dst=/c,ro=false,id=i$N,sharing=Locked,mode=0750,uid=1,gid=2 true",
        S="/s", N="1"
    )  # fmt: skip
    assert run.mounts == (
        MountFlag(
            text="type=cache,from=s,source=$S,dst=/c,ro=false,id=i$N,sharing=Locked,mode=0750,uid=1,gid=2",
            type="cache", from_="s", source="/s", target="/c", readonly=False, id="i1", sharing="locked",
            mode=0o750, uid=1, gid=2,
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "readonly"),
    [
        ("target=/x", True), ("type=cache,target=/x", False), ("type=tmpfs,target=/x", False),
        ("type=secret,id=s", True),
        ("target=/x,rw", False), ("target=/x,readwrite=false", True), ("type=cache,target=/x,readonly", True),
    ],
)  # fmt: skip
def test_whether_a_mount_is_read_only(text: str, readonly: bool) -> None:
    assert expanded(f"RUN --mount={text} true").mounts[0].readonly is readonly


def test_secrets_ssh_and_tmpfs() -> None:
    run = expanded(
        "RUN --mount=type=secret,id=a,env=TOKEN --mount=type=secret,source=b,required --mount=type=ssh"
        " --mount=type=tmpfs,target=/t,size=64m true"
    )
    secret, other, ssh, tmpfs = run.mounts
    assert (secret.id, secret.env, secret.required) == ("a", "TOKEN", False)
    assert (other.source, other.required) == ("b", True)
    assert (ssh.type, ssh.id, tmpfs.size_bytes) == ("ssh", "", 64 << 20)


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ("type=bnd", 'unsupported mount type "bnd" (did you mean bind?)'),
        ("foo", "invalid field 'foo' must be a key=value pair"),
        ("target=/x,fooo=1", "unexpected key 'fooo' in 'fooo=1' (did you mean from?)"),
        ("type=cache,target=/x,required", "unexpected key 'required' for mount type 'cache'"),
        ("type=cache,target=/x,mode=99", "invalid value 99 for mode"),
        ("type=cache,target=/x,uid=x", "invalid value x for uid"),
        ("type=cache,target=/x,ro=x", "invalid value for ro: x"),
        ("target=/x,uid=1", 'uid not allowed for "bind" type mounts'),
        ("target=/x,sharing=shared", "invalid cache sharing set for bind mount"),
        ("type=cache,target=/x,sharing=foo", 'unsupported sharing value "foo"'),
        ("type=tmpfs,target=/x,size=1q", "invalid value for size: 1q"),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,id=a,source=b", "both source and id can't be set"),
        ("type=secret,id=a,from=b", "secret mount should not have a from"),
    ],
)
def test_a_mount_is_checked_when_its_variables_are_known(mount: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        expanded(f"RUN --mount={mount} true")
    assert (caught.value.message, caught.value.line) == (message, 2)


def test_devices_are_refused_by_name() -> None:
    with pytest.raises(DockerfileError, match="device feature is only supported"):
        expanded("RUN --device=gpu true")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("RUN <<EOF\na\nb\nEOF", ("a\nb\n",)),
        ("RUN <<-EOF\n\ta\n\t b\n\tEOF", ("a\n b\n",)),
        ("RUN <<EOF cat > /x\na $B\nEOF", ("<<EOF cat > /x\na $B\nEOF",)),
        ("RUN cat <<A <<'B'\na\nA\nb\nB", ("cat <<A <<'B'\na\nA\nb\nB",)),
        ("RUN echo plain", ("echo plain",)),
    ],
)
def test_the_program_of_a_run_with_heredocs(text: str, words: tuple[str, ...]) -> None:
    command, script = one(text).program()
    assert command == i.Command(words, shell=True)
    assert script is None


def test_a_heredoc_that_is_a_script() -> None:
    command, script = one("RUN <<-go\n\t#!/bin/sh\n\tx\n\tgo").program()
    assert (command.words, script) == (("#!/bin/sh\nx\n",), None), "a tab before #! makes it no script"
    command, script = one("RUN <<go\n#!/bin/sh\nx\ngo").program()
    assert command == i.Command(("/dev/pipes/go",), shell=True)
    assert script is not None and (script.name, script.text()) == ("go", "#!/bin/sh\nx\n")


def test_copy_with_everything() -> None:
    copy = expanded(
        "COPY --from=s --chown=$U:$U --chmod=7$N --link --parents --exclude=*.$E --exclude=b $A b <<EOF /d/$A\n$A\nEOF",
        U="5", N="55", E="o", A="a",
    )  # fmt: skip
    assert (copy.sources, copy.destination) == (("a", "b"), "/d/a")
    assert (copy.from_, copy.chown, copy.chmod, copy.link, copy.parents) == ("s", "5:5", "755", True, True)
    assert copy.exclude == ("*.$E", "b"), "patterns stay as written"
    assert [(doc.name, doc.text()) for doc in copy.heredocs] == [("EOF", "a\n")]


def test_add_with_everything() -> None:
    add = expanded("ADD --checksum=sha256:$S --keep-git-dir --unpack=false --link=false a b", S="ab")
    assert (add.checksum, add.keep_git_dir, add.unpack, add.link) == ("sha256:ab", True, False, False)
    assert one("ADD a b").unpack is None


def test_quoted_heredocs_are_not_expanded() -> None:
    copy = expanded('COPY <<"A" <<B /\n$X \\$X\nA\n$X \\$X "q"\nB', X="1")
    assert [doc.text() for doc in copy.heredocs] == ["$X \\$X\n", '1 $X "q"\n']


def test_health_and_shell() -> None:
    health = one("HEALTHCHECK --interval=1m --timeout=2s --start-period=3s --start-interval=4ms --retries=5 CMD curl x")
    assert health.test == ("CMD-SHELL", "curl x")
    assert (health.interval_ns, health.timeout_ns, health.start_period_ns) == (60 * 10**9, 2 * 10**9, 3 * 10**9)
    assert (health.start_interval_ns, health.retries) == (4 * 10**6, 5)
    assert one('SHELL ["a", "b"]').words == ("a", "b")


def test_a_trigger_is_read_when_it_is_used() -> None:
    onbuild = one("ONBUILD COPY <<EOF /a\nhi\nEOF")
    trigger = stages.parse_trigger(onbuild.expression, Range(3, 3))
    assert isinstance(trigger, i.CopyInstruction)
    assert (trigger.heredocs[0].content, trigger.range) == ("hi\n", Range(3, 3))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("RUN a\nRUN b", "onbuild trigger should be a single expression"),
        ("NOPE", "unknown instruction: NOPE (did you mean COPY?)"),
        ("", "file with no instructions"),
    ],
)
def test_what_no_trigger_may_be(expression: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        stages.parse_trigger(expression)
    assert caught.value.message == message


def test_an_entrypoint_drops_the_command_of_the_base_only() -> None:
    base = {"Cmd": ["x"]}
    assert config.apply(base, one('ENTRYPOINT ["e"]'))["Cmd"] is None
    assert config.apply(base, one('ENTRYPOINT ["e"]'), cmd_set=True)["Cmd"] == ["x"]
    assert base == {"Cmd": ["x"]}


def test_the_same_mistake_has_two_wordings() -> None:
    with pytest.raises(DockerfileError) as caught:
        config.apply({}, one("EXPOSE 80/foo"))
    assert caught.value.message == 'invalid port: "80/foo": invalid proto: foo'
    assert caught.value.classic == "Invalid proto: foo"
    assert caught.value.ranges == (Range(2, 2),)


def test_an_excerpt_shows_two_lines_around_one_and_one_around_many() -> None:
    text = "".join(f"line {n}\n" for n in range(1, 9))
    assert excerpt(text, [Range(4, 4)]).split("\n")[2:-1] == [
        "   2 |     line 2", "   3 |     line 3", "   4 | >>> line 4", "   5 |     line 5", "   6 |     line 6",
    ]  # fmt: skip
    assert excerpt(text, [Range(4, 5)], filename="F") == (
        "F:4\n--------------------\n   3 |     line 3\n   4 | >>> line 4\n   5 | >>> line 5\n   6 |     line 6\n"
        "--------------------"
    )
    assert excerpt(text, [Range(40, 41)]) == ""
    assert excerpt(text, []) == ""
