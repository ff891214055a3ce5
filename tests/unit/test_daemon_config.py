"""Flags and daemon.json: what is accepted, what is refused, in dockerd's words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sampan.daemon import flags
from sampan.daemon.config import DaemonConfig, load
from sampan.daemon.options import BY_KEY, OPTIONS, parse_bytes
from sampan.daemon.reload import RELOADABLE, attributes_of, decide
from sampan.daemon.validation import ConfigError, check_host


def configure(directory: Path, file: Any = None, *argv: str) -> DaemonConfig:
    path = directory / "daemon.json"
    path.write_text(file if isinstance(file, str) else json.dumps(file or {}))
    return load(flags.parse(["--config-file", str(path), *argv]))


def refusal(directory: Path, file: Any, *argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        configure(directory, file, *argv)
    return str(caught.value).partition("daemon.json: ")[2]


def test_flags_are_read_by_dockers_rules() -> None:
    got = flags.parse(
        ["-DHunix:///a", "-H", "unix:///b", "--mtu=9000", "--icc=false", "--label", "a=b", "--log-opt", "k=v"]
    )
    assert got == {
        "debug": True,
        "host": ["unix:///a", "unix:///b"],
        "mtu": 9000,
        "icc": False,
        "label": ["a=b"],
        "log-opt": {"k": "v"},
    }


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["-Z"], "unknown shorthand flag: 'Z' in -Z"),
        (["-H"], "flag needs an argument: 'H' in -H"),
        (["--mtu"], "flag needs an argument: --mtu"),
        (["--mtu", "x"], 'invalid argument "x" for "--mtu" flag: strconv.ParseInt: parsing "x": invalid syntax'),
        (["--debug=x"], 'invalid argument "x" for "-D, --debug" flag: strconv.ParseBool: parsing "x": invalid syntax'),
        (["--label", "a"], 'invalid argument "a" for "--label" flag: bad attribute format: a'),
        (["--dns", "x"], 'invalid argument "x" for "--dns" flag: invalid string being converted to IP address: x'),
        (["--add-runtime", "x"], 'invalid argument "x" for "--add-runtime" flag: invalid runtime argument: x'),
        (["--default-ulimit", "x"], 'invalid argument "x" for "--default-ulimit" flag: invalid ulimit argument: x'),
        (["--default-shm-size", "x"], 'invalid argument "x" for "--default-shm-size" flag: invalid size: \'x\''),
    ],
)
def test_bad_command_lines(argv: list[str], words: str) -> None:
    with pytest.raises(flags.CommandLineError) as caught:
        flags.parse(argv)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("file", "argv", "words"),
    [
        ({"nope": 1, "also": 2}, [], "the following directives don't match any configuration option: also, nope"),
        ({"Debug": True}, [], "the following directives don't match any configuration option: Debug"),
        ({"debug": "x"}, [], "invalid JSON: json: cannot unmarshal string into Go struct field Config.debug of type "
                             "bool"),
        ({"mtu": True}, [], "invalid JSON: json: cannot unmarshal bool into Go struct field Config.mtu of type int"),
        ({"log-opts": {"a": 1}}, [], "invalid JSON: json: cannot unmarshal number into Go struct field "
                                     "Config.log-opts.a of type string"),
        ({"dns": ["x"]}, [], "invalid JSON: invalid IP address: x"),
        ("{", [], "invalid JSON: unexpected end of JSON input"),
        ("[]", [], "invalid JSON: json: cannot unmarshal array into Go value of type map[string]interface {}"),
        ('{"debug":true} x', [], "invalid JSON: invalid character 'x' after top-level value"),
        (
            {"debug": True, "labels": ["a=b"]},
            ["--debug", "--label", "c=d"],
            "the following directives are specified both as a flag and in the configuration file: "
            "debug: (from flag: true, from file: true), labels: (from flag: [c=d], from file: [a=b])",
        ),
        ({"graph": "/a", "data-root": "/b"}, [], "the following directives mean the same and are both given: "
                                                 "data-root, data-root"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path: Path, file: Any, argv: list[str], words: str) -> None:
    assert refusal(tmp_path, file, *argv) == words


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ({"mtu": -1}, "invalid default MTU: -1"),
        (
            {"userns-remap": "default"},
            "userns-remap is not supported by this version: refusing to run without the protection it asks for",
        ),
        (
            {"authorization-plugins": ["x"]},
            "authorization-plugins is not supported by this version: refusing to run without the protection it asks "
            "for",
        ),
        ({"log-level": "nope"}, "invalid logging level: nope"),
        ({"log-format": "nope"}, "invalid log format: nope"),
        ({"log-driver": "nope"}, "logger: no log driver named 'nope' is registered"),
        ({"default-runtime": "nope"}, "specified default runtime 'nope' does not exist"),
        ({"runtimes": {"runc": {"path": "/x"}}}, "runtime name 'runc' is reserved"),
        ({"labels": ["a"]}, "bad attribute format: a"),
        ({"labels": ["a=b", "a=c"]}, "conflict labels for a=c and a=b"),
        ({"hosts": ["foo://x"]}, "invalid bind address (foo://x): unsupported proto 'foo'"),
        ({"dns-search": ["-x"]}, "-x is not a valid domain"),
        ({"default-ipc-mode": "x"}, 'default IPC mode setting (x) is invalid; use "shareable" or "private"'),
        ({"bip": "x"}, "invalid bip: invalid CIDR address: x"),
        ({"registry-mirrors": ["x"]}, "invalid mirror: no scheme specified for \"x\": must use either 'https://' or 'http://'"),
        ({"max-concurrent-downloads": -1}, "invalid max concurrent downloads: -1"),
        ({"storage-driver": "zfs"}, "driver not supported: zfs"),
        ({"oom-score-adjust": 5000}, "invalid oom-score-adjust: 5000: must be between -1000 and 1000"),
        ({"default-address-pools": [{"base": "10.0.0.0/8", "size": 4}]}, "invalid default address pool 10.0.0.0/8: "
                                                                         "invalid size 4"),
    ],
)  # fmt: skip
def test_bad_values(tmp_path: Path, file: Any, words: str) -> None:
    prefix = "merged configuration validation from file and command line flags failed: "
    assert refusal(tmp_path, file) == prefix + words


def test_a_missing_file_matters_only_when_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or directory"):
        load(flags.parse(["--config-file", str(tmp_path / "nope.json")]))


def test_values_reach_the_engine(tmp_path: Path) -> None:
    file = {"graph": str(tmp_path / "g"), "default-shm-size": "128m", "labels": ["a=b"], "live-restore": False}
    file |= {"host-gateway-ip": "10.0.0.1", "proxies": {"http-proxy": "http://p:1"}, "seccomp-profile": "builtin"}
    config = configure(
        tmp_path, file, "--shutdown-timeout", "3", "-H", "fd://", "--metrics-addr", ":9323", "--cdi-spec-dir", "x"
    )
    engine = config.engine
    assert engine.data_root == str(tmp_path / "g") and engine.default_shm_size_bytes == 128 << 20
    assert (engine.labels, engine.live_restore, engine.shutdown_timeout_s) == (("a=b",), False, 3)
    assert (engine.host_gateway_ips, engine.seccomp_profile) == (("10.0.0.1",), "")
    assert config.metrics_addr == ":9323"
    assert config.hosts == ("fd://",) and config.engine.http_proxy == "http://p:1"
    assert config.warnings == ("option cdi-spec-dir is accepted and has no effect yet",)


def test_plain_tcp_counts_as_asked_for_only_in_so_many_words(tmp_path: Path) -> None:
    assert not configure(tmp_path).tls_explicit
    assert configure(tmp_path, {}, "--tls=false").tls_explicit
    assert configure(tmp_path, {"tlsverify": True}).tls


def test_sizes() -> None:
    assert [parse_bytes(t) for t in ("1", "1k", "64M", "1.5g", "2GiB", "5 kb")] == [
        1, 1024, 64 << 20, 3 << 29, 2 << 30, 5120,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("host", "parts"),
    [
        ("unix:///a", ("unix", "/a")),
        ("/a", ("unix", "/a")),
        ("fd://x", ("fd", "x")),
        ("tcp://[::1]:5", ("tcp", "[::1]:5")),
    ],
)
def test_hosts(host: str, parts: tuple[str, str]) -> None:
    assert check_host(host) == parts


def test_a_reload_takes_what_reloads_and_nothing_else(tmp_path: Path) -> None:
    before = configure(tmp_path, {"data-root": "/a", "labels": ["a=1"]})
    wanted = configure(tmp_path, {"data-root": "/b", "labels": ["b=2"], "debug": True, "max-concurrent-downloads": 9})
    after = decide(before, wanted)
    assert after.engine.data_root == "/a" and after.engine.labels == ("b=2",)
    assert after.engine.max_concurrent_downloads == 9 and after.log_level == "debug"
    told = attributes_of(after)
    assert (told["labels"], told["debug"], told["max-concurrent-downloads"]) == ('["b=2"]', "true", "9")
    assert set(RELOADABLE) <= set(told)


def test_the_table_is_sound() -> None:
    assert len(BY_KEY) == len([o for o in OPTIONS if o.key])
    assert all(o.key for o in OPTIONS if o.reloads)
    assert "Options:" in flags.usage() and "--tlsverify" in flags.usage()
