"""`--change`: what each instruction does, and how each mistake is named (recorded from the reference engine)."""

from __future__ import annotations

import pytest

from sampan.engine.images import commit, instructions
from sampan.errors import InvalidArgument


def test_all_instructions() -> None:
    config = instructions.apply(
        {"Env": ["OLD=1", "A=z"], "Labels": {"k": "v"}},
        [
            'ENV A=b C="d e" F=$A', "ENV G ${A:-x} ${Z:-dflt} y", 'LABEL a=b "c d"=e', "CMD echo hi",
            'ENTRYPOINT ["/a","b"]', "WORKDIR /a", "WORKDIR b", "USER $A", "EXPOSE 80 90/udp 100-102", "VOLUME /v /w",
            'VOLUME ["/x y"]', "ONBUILD RUN x", "STOPSIGNAL SIGINT", "# a comment", "",
            "HEALTHCHECK --interval=5s --retries=3 \\\n  CMD curl x",
        ],
    )  # fmt: skip
    assert config["Env"] == ["OLD=1", "A=b", "C=d e", "F=z", "G=b dflt y"]
    assert config["Labels"] == {"a": "b", "c d": "e", "k": "v"}
    assert config["Cmd"] == ["/bin/sh", "-c", "echo hi"] and config["Entrypoint"] == ["/a", "b"]
    assert config["WorkingDir"] == "/a/b" and config["User"] == "b" and config["StopSignal"] == "SIGINT"
    assert list(config["ExposedPorts"]) == ["100/tcp", "101/tcp", "102/tcp", "80/tcp", "90/udp"]
    assert list(config["Volumes"]) == ["/v", "/w", "/x y"] and config["OnBuild"] == ["RUN x"]
    assert config["Healthcheck"] == {"Test": ["CMD-SHELL", "curl x"], "Interval": 5 * 10**9, "Retries": 3}
    assert list(config)[:3] == ["Hostname", "Domainname", "User"], "Docker's order: it decides the image's id"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("ENV A", "ENV must have two arguments"),
        ("ENV A= B", 'Syntax error - can\'t find = in "B". Must be of the form: name=value'),
        ('ENV "A', "ENV must have two arguments"),
        ("ENV =x", "ENV names can not be blank"),
        ("LABEL a", "LABEL must have two arguments"),
        ("EXPOSE x", "Invalid containerPort: x"),
        ("EXPOSE 80/foo", "Invalid proto: foo"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ('VOLUME [""]', "VOLUME specified can not be an empty string"),
        ("USER", "USER requires exactly one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD ONBUILD x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("STOPSIGNAL NOPE", "invalid signal: NOPE"),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK FOO x", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("HEALTHCHECK --interval=x CMD a", 'time: invalid duration "x"'),
        ("HEALTHCHECK --foo=1 CMD a", "unknown flag: --foo"),
        ("HEALTHCHECK --retries=-1 CMD a", "--retries cannot be negative (-1)"),
        ("HEALTHCHECK --interval=1us CMD a", 'Interval "interval" cannot be less than 1ms'),
        ("RUN x", "RUN is not a valid change command"),
        ("bogus", "bogus is not a valid change command"),
        ("", "file with no instructions"),
        ("# c", "file with no instructions"),
    ],
)
def test_mistakes(change: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as mistake:
        instructions.apply({}, [change])
    assert mistake.value.message == message


def test_an_escape_directive_counts() -> None:
    config = instructions.apply({}, ["# escape=`", "ENV A=x\\y `\n  B=z"])
    assert config["Env"] == ["A=x\\y", "B=z"]


def test_changes_of_a_commit_see_the_containers_environment_and_keep_its_order() -> None:
    own = {"Env": ["B=9", "C=3", "PATH=/bin", "A=1"], "OnBuild": ["RUN x"], "Cmd": ["old"]}
    merged = commit.image_config({}, ["ENV A=5", "ENV D=$A$B$C"], own)
    assert merged["Env"] == ["B=9", "C=3", "PATH=/bin", "A=5", "D=593"]  # Docker Engine 28.5.2
    assert merged["OnBuild"] == ["RUN x"] and merged["Cmd"] == ["old"]


def test_commit_joins_the_containers_config_under_the_given_one() -> None:
    own = {
        "Entrypoint": ["/e"], "Cmd": ["foo"], "Env": ["A=b", "C=d"], "Labels": {"d": "1", "e": "2"}, "User": "5",
        "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/vol": {}}, "WorkingDir": "/wd", "StopSignal": "SIGINT",
    }  # fmt: skip
    merged = commit.image_config({}, [], own)
    assert {k: merged[k] for k in own} == own
    merged = commit.image_config({"Entrypoint": ["x"]}, [], own)
    assert merged["Cmd"] is None, "an entrypoint of one's own never gets a foreign command"
    merged = commit.image_config({"Env": ["A=new", "Q=r"], "Labels": {"d": "2"}, "User": "9"}, ["VOLUME /k"], own)
    assert merged["Env"] == ["A=new", "Q=r", "C=d"] and merged["Labels"] == {"d": "2", "e": "2"}
    assert merged["User"] == "9" and set(merged["Volumes"]) == {"/k", "/vol"}
