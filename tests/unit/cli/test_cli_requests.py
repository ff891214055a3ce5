"""What goes to the engine for a command line is what docker 28.5 sends for it: recorded from docker, compared whole."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sampan.cli import flags, main, table
from sampan.cli.config import Config
from sampan.cli.container import config, options
from sampan.cli.session import Cli, CommandError
from sampan.client.engine import EngineClient
from sampan.client.http import Response
from sampan.client.transport import Address
from sampan.errors import NotFound

RECORDED: list[dict[str, Any]] = json.loads(Path(__file__).with_name("docker_requests.json").read_text())
CREATES = [r for r in RECORDED if r["argv"][0] == "create"]
OTHERS = [r for r in RECORDED if r["argv"][0] != "create"]
# docker says the same thing at greater length, or asks before it acts
LONGER = {"update", "attach", "network rm", "start", "logs"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The environment in which docker was recorded: one variable, one file."""
    for name in ("A", "Z", "NOPE", "NOPE2"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FOO", "bar")
    file = tmp_path / "envf"
    file.write_text("# c\nA=1\nFOO\nNOPE\n")
    return file


def body_of(argv: list[str], environment: Path) -> dict[str, Any]:
    argv = [str(environment) if word == "{file}" else word for word in argv[1:]]
    declared = flags.declared(options.FLAGS)
    opts, args = flags.parse(declared, argv, interspersed=False, parsers=options.PARSERS)
    return config.build(opts, args[0], args[1:])


@pytest.mark.parametrize("recorded", CREATES, ids=lambda r: " ".join(r["argv"])[:80])
def test_create_sends_what_docker_sends(recorded: dict[str, Any], environment: Path) -> None:
    theirs = recorded["requests"][0][3]
    ours = body_of(recorded["argv"], environment)
    for side in (ours, theirs):
        binds = side["HostConfig"]["Binds"]
        side["HostConfig"]["Binds"] = sorted(binds) if binds else binds  # docker's order is that of a Go map
    assert ours == theirs


class _Recorder(EngineClient):
    """An engine that records what is asked of it and knows nothing: every answer is 404."""

    def __init__(self) -> None:
        super().__init__(Address("unix:///nowhere"), api_version="1.51")
        self.asked: list[tuple[str, str, list[list[str]], Any]] = []

    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: object = None,
        **_: Any,
    ) -> Response:
        pairs = []
        for key, value in (query or {}).items():
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if item is not None and item is not False:
                    text = json.dumps(item, separators=(",", ":")) if isinstance(item, dict) else str(item)
                    pairs.append([key, "1" if item is True else text])
        self.asked.append((method, f"/v1.51{path}", sorted(pairs), body))
        raise NotFound("nothing is here")


def _canonical(query: list[list[str]]) -> list[list[str]]:
    """Filters as sorted JSON."""
    return sorted([k, json.dumps(json.loads(v), sort_keys=True) if v.startswith("{") else v] for k, v in query)


@pytest.mark.parametrize("recorded", OTHERS, ids=lambda r: " ".join(r["argv"])[:80])
def test_other_commands_ask_what_docker_asks(recorded: dict[str, Any], tmp_path: Path) -> None:
    argv = recorded["argv"]
    typed, canonical, words = main.find(argv)
    module = main.load(canonical)
    opts, args = flags.parse(
        flags.declared(module.FLAGS),
        words,
        interspersed=getattr(module, "INTERSPERSED", True),
        parsers=getattr(module, "PARSERS", None),
    )
    globals_, _ = flags.parse(flags.declared(table.GLOBAL_FLAGS), [])
    session = Cli(globals_, Config(str(tmp_path)), typed)
    engine = _Recorder()
    session._engine = engine
    try:
        module.run(session, opts, args)
    except (CommandError, NotFound):
        pass
    theirs = recorded["requests"]
    if not engine.asked and typed in LONGER:
        pytest.fail("nothing was asked")
    first = engine.asked[0]
    match = next((r for r in theirs if r[0] == first[0] and _path(r[1]) == _path(first[1])), None)
    assert match is not None, (first, theirs)
    assert _canonical(first[2]) == _canonical(match[2])
    if match[3] not in (None, "") and typed not in LONGER:
        assert first[3] == match[3]


def _path(path: str) -> str:
    return re.sub(r"[0-9a-f]{64}", "ID", path)
