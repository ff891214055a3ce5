"""Each flag and each key of daemon.json acts, or is refused by name, or is marked in --help and warned of."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

import sampan
from sampan.daemon import flags
from sampan.daemon.config import DaemonConfig, load
from sampan.daemon.options import OPTIONS, REFUSED, Option
from sampan.daemon.validation import ConfigError
from sampan.engine.config import EngineConfig
from tests.e2e.test_options_act import ACT_TOO, ACTS, RELOADED

GIVEN: dict[str, Any] = {  # another than the default, as daemon.json has it
    "authorization-plugins": ["x"],
    "bip": "10.1.0.1/24",
    "bip6": "fd00:1::1/64",
    "builder": {"gc": {"enabled": True}},
    "data-root": "/x",
    "default-address-pools": [{"base": "10.0.0.0/16", "size": 24}],
    "default-cgroupns-mode": "host",
    "default-gateway": "10.1.0.9",
    "default-gateway-v6": "fd00:1::9",
    "default-ipc-mode": "shareable",
    "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}},
    "default-runtime": "io.containerd.runc.v2",
    "default-shm-size": "1m",
    "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 9, "Soft": 9}},
    "disk-budget": "1g",
    "dns": ["1.1.1.1"],
    "exec-opts": ["native.cgroupdriver=systemd"],
    "metrics-addr": "127.0.0.1:1",
    "host-gateway-ips": ["10.1.0.1"],
    "exec-root": "/y",
    "features": {"buildkit": False},
    "fixed-cidr": "10.1.0.0/25",
    "fixed-cidr-v6": "fd00:1::/80",
    "hosts": ["unix:///z"],
    "ip": "127.0.0.1",
    "labels": ["a=b"],
    "log-driver": "local",
    "log-format": "json",
    "log-level": "debug",
    "log-opts": {"max-size": "1m"},
    "pidfile": "/p",
    "port-mapper": "proxy",
    "registry-mirrors": ["https://m.example"],
    "registries": {"docker.io": {"mirrors": ["https://m.example"]}},
    "runtimes": {"other": {"path": "/bin/other"}},
    "storage-driver": "vfs",
    "storage-opts": ["a=b"],
}
MARKED = {  # what is taken and has no effect, with the reason
    "cdi-spec-dirs": "there are no CDI devices yet",
    "network-control-plane-mtu": "there is no control plane between engines yet",
    "node-generic-resources": "there is no swarm yet",
    "raw-logs": "the daemon's log is never coloured, and its times are always whole",
    "swarm-default-advertise-addr": "there is no swarm yet",
    "userland-proxy-path": "a process of our own carries ports",
}
ELSEWHERE = {  # what acts and is proven by another test than those of test_options_act.py: where, and by which words
    "bridge": ("kernel/test_net_lifecycle.py", 'bridge="none"'),
    "builder": ("kernel/builder/test_run.py", "entitlements"),
    "data-root": ("support/engine.py", "--data-root"),  # these four: every engine of the tests has its own
    "exec-root": ("support/engine.py", "--exec-root"),
    "hosts": ("support/engine.py", "-H"),
    "pidfile": ("support/engine.py", "--pidfile"),
    "overlay-peers": ("e2e/test_overlay.py", "--overlay-peers"),
    "port-mapper": ("e2e/test_carried_ports.py", "--port-mapper"),
    "disk-budget": ("e2e/test_disk.py", "disk-budget"),
    "ip-forward": ("conformance/test_network_drivers.py", "ip_forward"),
    "ip-forward-no-drop": ("conformance/test_network_drivers.py", "ip_forward_no_drop"),
    "max-concurrent-downloads": ("unit/test_registry.py", "slots.slot()"),
    "max-concurrent-uploads": ("unit/test_registry.py", "slots.slot()"),
    "max-download-attempts": ("e2e/test_registry.py", "max-download-attempts"),
    "registries": ("e2e/test_reload.py", '"registries"'),
    "shutdown-timeout": ("api/test_daemon.py", "shutdown-timeout"),
    "storage-opts": ("conformance/test_storage_drivers.py", "options"),
    "tls": ("api/test_daemon.py", "--tls"),
    "tlscacert": ("api/test_daemon.py", "--tlscacert"),
    "tlscert": ("api/test_daemon.py", "--tlscert"),
    "tlskey": ("api/test_daemon.py", "--tlskey"),
    "tlsverify": ("api/test_daemon.py", "--tlsverify"),
    "userland-proxy": ("kernel/test_net_publish.py", "userland_proxy=False"),
}
INSTEAD = ("config-file", "validate", "version", "help")  # what they do is done before there is a configuration


def other_value(option: Option) -> Any:
    if option.key in GIVEN:
        return GIVEN[option.key]
    if option.kind.go == "bool":
        return not option.default
    if option.kind.go == "int":
        return (option.default or 0) + 1
    return ["x"] if option.kind.json is list else "x"


def configured(directory: Path, file: dict[str, Any]) -> DaemonConfig:
    path = directory / "daemon.json"
    path.write_text(json.dumps(file))
    return load({"config-file": str(path)})


def outcome(option: Option, directory: Path) -> str:
    plain = configured(directory, {})
    try:
        made = configured(directory, {option.key: other_value(option)})
    except ConfigError as error:
        return "refused" if option.key in str(error) else f"refused without its name: {error}"
    if dataclasses.replace(made, values={}, warnings=()) != dataclasses.replace(plain, values={}, warnings=()):
        return "acts"
    return "marked" if made.warnings and option.accepted else "nothing"


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.key], ids=lambda option: option.key)
def test_an_option_acts_or_is_refused_or_is_marked(option: Option, tmp_path: Path) -> None:
    found = outcome(option, tmp_path)
    line = next((text for text in flags.usage().splitlines() if f"--{option.flag} " in f"{text} "), "")
    if option.key in REFUSED:
        assert found == "refused" and "(refused when set)" in line
    elif option.key == "exec-opts":  # one of its two values
        assert found == "refused without its name" or "native.cgroupdriver=systemd" in found
    elif option.accepted:
        assert found == "marked" and "(accepted, without effect)" in line
    else:
        assert found == "acts" and "without effect" not in line


def test_what_has_no_effect_is_listed_with_its_reason() -> None:
    assert {o.key for o in OPTIONS if o.accepted} == MARKED.keys()


def test_what_acts_is_read_back_on_a_whole_engine() -> None:
    acts = {o.key for o in OPTIONS if o.key and not o.accepted and o.key not in REFUSED}
    assert acts == {*ACTS, *ACT_TOO, *ELSEWHERE}
    assert not ELSEWHERE.keys() & (ACTS.keys() | ACT_TOO.keys())
    tests = Path(__file__).parents[1]
    for key, (name, word) in ELSEWHERE.items():
        assert word in (tests / name).read_text(), (key, name)
    assert {o.key for o in OPTIONS if o.reloads} == RELOADED.keys()


def test_flags_without_a_key_are_those_that_come_before_the_configuration() -> None:
    assert tuple(o.flag for o in OPTIONS if not o.key) == INSTEAD


def test_each_value_of_the_engines_configuration_is_read() -> None:
    """A field that nobody reads is an option without effect."""
    root = Path(sampan.__file__).parent
    text = "\n".join(p.read_text() for p in (root / "engine").rglob("*.py") if p.name != "config.py")
    text += "\n".join(p.read_text() for p in (root / "api").rglob("*.py")) + (root / "daemon/main.py").read_text()
    for field in dataclasses.fields(EngineConfig):
        assert re.search(rf"(config|engine|settings)\.{field.name}\b", text), field.name


def test_a_feature_that_nobody_knows_is_warned_of(tmp_path: Path) -> None:
    made = configured(tmp_path, {"features": {"buildkit": True, "cdi": True}})
    assert made.warnings == ("feature cdi is not known and has no effect",)
