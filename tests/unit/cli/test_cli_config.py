"""A config.json that is not right is a warning in docker's words, and the rest of it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.cli.config import Config
from sampan.daemon import sockets
from sampan.spec.sockets import SAMPAN_SOCKET

_TYPE = "json: cannot unmarshal"


@pytest.mark.parametrize(
    ("text", "reason"),
    [  # what docker 28.5.2 says
        ('{"auths": ', "unexpected EOF"),
        ("nonsense", "invalid character 'o' in literal null (expecting 'u')"),
        ('"s\n', "invalid character '\\n' in string"),
        ('{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        ('{"a"}', "invalid character '}' after object key"),
        ('{"a":}', "invalid character '}' looking for beginning of value"),
        ('{"a":tru}', "invalid character '}' in literal true (expecting 'e')"),
        ("{a}", "invalid character 'a' looking for beginning of object key string"),
        ('{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        ("[1", "unexpected EOF"),
        ('{"a":"\\x"}', "invalid escape sequence `\\x` in string"),
        ('{"a":01}', "invalid character '1' after object key:value pair"),
        ("[]", f"{_TYPE} array into Go value of type configfile.ConfigFile"),
        ("5", f"{_TYPE} number into Go value of type configfile.ConfigFile"),
        (
            '{"auths": 3}',
            f"{_TYPE} number into Go struct field ConfigFile.auths of type map[string]types.AuthConfig",
        ),
        ('{"auths":{"x":3}}', f"{_TYPE} number into Go struct field ConfigFile.auths.x of type types.AuthConfig"),
        ('{"detachKeys": 5}', f"{_TYPE} number into Go struct field ConfigFile.detachKeys of type string"),
        ('{"HttpHeaders":[]}', f"{_TYPE} array into Go struct field ConfigFile.HttpHeaders of type map[string]string"),
        ('{"credHelpers":{"a":1}}', f"{_TYPE} number into Go struct field ConfigFile.credHelpers.a of type string"),
        ('{"credsStore":{}}', f"{_TYPE} object into Go struct field ConfigFile.credsStore of type string"),
        (
            '{"proxies":{"default":3}}',
            f"{_TYPE} number into Go struct field ConfigFile.proxies.default of type configfile.ProxyConfig",
        ),
        ('{"psFormat":true}', f"{_TYPE} bool into Go struct field ConfigFile.psFormat of type string"),
        (
            '{"plugins":3}',
            f"{_TYPE} number into Go struct field ConfigFile.plugins of type map[string]map[string]string",
        ),
    ],
)
def test_a_bad_configuration_is_a_warning(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    assert Config(str(tmp_path)).warning == f"WARNING: Error parsing config file ({tmp_path}/config.json): {reason}"


@pytest.mark.parametrize("text", ["", " \n", "null", "{}", '{"detachkeys":"ctrl-a"}', '{"auths":null}'])
def test_these_are_no_fault(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    assert Config(str(tmp_path)).warning == ""


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "\x00", "\ufeff{}", '{"a":"\\ud800"'])
def test_nothing_in_the_file_stops_the_program(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    assert Config(str(tmp_path)).warning


def test_what_has_the_right_type_holds_beside_what_has_not(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"detachKeys": "ctrl-a", "psFormat": 1, "credHelpers": {"a": 1, "b": "c"}}')
    config = Config(str(tmp_path))
    assert config.data == {"detachKeys": "ctrl-a", "credHelpers": {"b": "c"}}


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    assert Config(str(tmp_path)).warning.endswith("config.json: is a directory")


def test_client_and_daemon_have_one_default_socket() -> None:
    assert sockets.DEFAULT_HOST.removeprefix("unix://") == SAMPAN_SOCKET
