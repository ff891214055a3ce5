"""What the flags of `sampan build` mean."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sampan.cli.builder import wants
from sampan.cli.session import CommandError


def told(*texts: str, load: bool = False, push: bool = False) -> list[tuple[str, dict[str, str], str]]:
    return [(one.type, one.attrs, one.path) for one in wants.outputs(texts, load=load, push=push)]


def test_outputs(tmp_path: Path) -> None:
    assert told("out") == told("type=local,dest=out") == [("local", {}, "out")]
    assert told("type=docker") == told(load=True) == [("image", {}, "")]
    assert told("type=registry,name=a") == [("image", {"name": "a", "push": "true"}, "")]
    assert told(push=True) == [("image", {"push": "true"}, "")]
    assert told('type=tar,"dest=a,b"') == [("tar", {}, "a,b")]
    assert wants.output("type=oci,dest=out,tar=false").directory
    assert not wants.output("type=oci,dest=out").directory


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dest=out", "type is required"),
        ("type=local", "dest is required"),
        ("type=local,dest=-", "dest cannot be stdout"),
        ("type=other", 'exporter "other" could not be found'),
        ("type=tar,dest=/", 'destination "/" is a directory'),
    ],
)
def test_outputs_that_are_none(text: str, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        wants.output(text)


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKEN", "x")
    (tmp_path / "file").touch()
    given = wants.secrets(["id=a,src=file", "id=b,env=TOKEN", "id=TOKEN", "id=file", "id=c,type=env,src=TOKEN"])
    assert given == {"a": "file", "b": "env:TOKEN", "TOKEN": "env:TOKEN", "file": "file", "c": "env:TOKEN"}
    for text, words in (
        ("src=file", "invalid secret"),
        ("id=a,x=y", "invalid field"),
        ("id=none", "failed to stat none"),
    ):
        with pytest.raises(CommandError, match=words):
            wants.secrets([text])


def test_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "agent")
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(path)
    monkeypatch.setenv("SSH_AUTH_SOCK", path)
    assert wants.ssh(["default", f"other={path}"]) == {"default": path, "other": path}
    monkeypatch.delenv("SSH_AUTH_SOCK")
    with pytest.raises(CommandError, match="invalid empty ssh agent socket"):
        wants.ssh(["default"])
    with pytest.raises(CommandError, match="is not the socket of an ssh agent"):
        wants.ssh([f"default={__file__}"])


def test_contexts_and_caches(tmp_path: Path) -> None:
    given = wants.contexts(["image=docker-image://alpine", f"dir={tmp_path}", "url=https://example.com/x.git"])
    assert given == {"image": "docker-image://alpine", "dir": str(tmp_path), "url": "https://example.com/x.git"}
    with pytest.raises(CommandError, match="expected key=value"):
        wants.contexts(["name"])
    ends, places = wants.cache_ends(["repo/name", f"type=local,src={tmp_path}", "type=local,src=/none"], importing=True)
    assert ends[0] == {"Type": "registry", "Attrs": {"ref": "repo/name"}}
    assert ends[1] == {"Type": "local", "Attrs": {"context": "cache1000"}} and len(ends) == 2
    assert places == {"cache1000": str(tmp_path)}
    ends, places = wants.cache_ends([f"type=local,dest={tmp_path},mode=max"], importing=False)
    assert ends == [{"Type": "local", "Attrs": {"mode": "max", "exporter": "1000"}}] and places == {
        "1000": str(tmp_path)
    }
