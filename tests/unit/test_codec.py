"""JSON as Go reads and writes it. The words for bad bodies are checked against the reference in tests/api."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import InvalidArgument
from sampan.spec import codec, go_syntax
from sampan.spec.engine_api.container import ContainerConfig, CreateRequest, HostConfig, UpdateConfig
from sampan.spec.engine_api.mount import MountSpec, TmpfsOptions


def refusal(type_: type, raw: bytes) -> str:
    with pytest.raises(InvalidArgument) as caught:
        codec.decode(type_, raw)
    return caught.value.message


def test_keys_match_whatever_their_case_and_the_last_one_wins() -> None:
    got = codec.decode(CreateRequest, b'{"image":"a","IMAGE":"b","hostconfig":{"MEMORY":1}}')
    assert got.config is not None and got.config.image == "b"
    assert got.host_config is not None and got.host_config.memory == 1


def test_null_is_the_zero_value_and_unknown_keys_are_ignored() -> None:
    raw = b'{"Memory":null,"Binds":null,"LogConfig":null,"Mounts":[null],"Nope":{"a":[1,2]},"ConsoleSize":[5]}'
    got = codec.decode(HostConfig, raw)
    assert (got.memory, got.binds, got.mounts) == (0, None, [MountSpec()])
    assert got.log_config.type == "" and got.console_size == (5, 0)


def test_a_string_or_a_list_is_a_command() -> None:
    assert codec.decode(ContainerConfig, b'{"Cmd":"ls"}').cmd == ["ls"]
    assert codec.decode(ContainerConfig, b'{"Cmd":["ls",null]}').cmd == ["ls", ""]


def test_the_embedded_configuration_is_none_when_no_key_of_it_is_given() -> None:
    assert codec.decode(CreateRequest, b'{"HostConfig":{}}').config is None
    assert codec.decode(CreateRequest, b'{"Tty":false}').config == ContainerConfig()


@pytest.mark.parametrize(
    ("type_", "raw", "words"),
    [
        (HostConfig, '{"Memory":1.5}', "cannot unmarshal number 1.5 into Go struct field .Memory of type int64"),
        (UpdateConfig, '{"Devices":[1]}', "number into UpdateConfig.Devices.0 of type container.DeviceMapping"),
        (HostConfig, '{"PortBindings":{"80/tcp":{}}}', "field .PortBindings.80~1tcp of type []nat.PortBinding"),
        (HostConfig, '{"BlkioWeight":65536}', "number 65536 into Go struct field .BlkioWeight of type uint16"),
        (HostConfig, "[]", "cannot unmarshal array into Go value of type container.HostConfig"),
    ],
)
def test_mismatches_name_the_field_and_the_go_type(type_: type, raw: str, words: str) -> None:
    message = refusal(type_, raw.encode())
    assert message.startswith("invalid JSON: json: cannot unmarshal ") and message.endswith(words)


def test_a_body_that_is_empty_or_too_long_is_told_apart() -> None:
    assert refusal(HostConfig, b"") == "invalid JSON: got EOF while reading request body"
    assert refusal(HostConfig, b"{} {}") == "unexpected content after JSON"
    assert refusal(HostConfig, b'{"a":' + b"[" * 20_000) == "invalid JSON: exceeded max depth"


def test_text_is_repaired_as_go_does() -> None:
    assert codec.decode(ContainerConfig, b'{"Image":"a\xffb"}').image == "a\ufffdb"
    assert codec.decode(ContainerConfig, b'{"Image":"\\ud800"}').image == "\ufffd"
    assert codec.decode(ContainerConfig, b'{"Image":"\\ud83d\\ude00"}').image == "\U0001f600"


def test_output_is_escaped_for_html_and_ends_in_a_newline() -> None:
    assert codec.encode({"a": "<b>&\u2028"}) == b'{"a":"\\u003cb\\u003e\\u0026\\u2028"}\n'


def test_fields_docker_leaves_out_are_left_out() -> None:
    assert "Healthcheck" not in codec.to_json(ContainerConfig())
    assert codec.to_json(ContainerConfig(stop_timeout=0))["StopTimeout"] == 0
    shown = codec.to_json(HostConfig(init=False, kernel_memory=0, mounts=[MountSpec(type="tmpfs", target="/t")]))
    assert shown["Init"] is False and "KernelMemory" not in shown
    assert shown["Mounts"] == [{"Type": "tmpfs", "Target": "/t"}] and shown["Binds"] is None


def test_what_is_written_can_be_read_back() -> None:
    host = HostConfig(memory=5, binds=["a:/b"], mounts=[MountSpec(tmpfs_options=TmpfsOptions(size_bytes=1))], init=True)
    assert codec.decode(HostConfig, codec.encode(host)) == host


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.sampled_from(["", " ", "\n\t"]))
@settings(max_examples=150, deadline=None)
def test_the_slow_parser_reads_what_json_reads(value: object, pad: str) -> None:
    text = pad + json.dumps(value, indent=1) + pad
    found = go_syntax.parse(text.encode(), float)
    assert json.dumps(found) == json.dumps(json.loads(text, parse_float=float))


@given(st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_bytes_whatsoever_raise_anything_but_a_refusal(raw: bytes) -> None:
    with contextlib.suppress(InvalidArgument):
        codec.decode(CreateRequest, raw)
