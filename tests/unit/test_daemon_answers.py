"""What is said of a configuration, compared with what `dockerd --validate` of 28.5.2 says (tests/api, recorded)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sampan.daemon.main import main
from sampan.daemon.options import REFUSED
from tests.api.record_daemon_config import ANSWERS, CONFIGS, normal

RECORDED = [(flags, document, code, text) for flags, document, code, text in json.loads(ANSWERS.read_text())]
EARLIER = {  # keys whose wrong values dockerd takes here: it fails at its start, or at the first container
    "exec-opts", "metrics-addr", "log-driver", "default-runtime", "runtimes", "default-address-pools", "bip",
    "fixed-cidr", "insecure-registries", "shutdown-timeout", "storage-driver", "storage-opts", "iptables", "bridge",
    "data-root",
}  # fmt: skip
OTHER_WORDS = {  # refused by both: which key, why ours has other words
    "default-address-pools": "Go's parser of prefixes; its path through the decoder",
    "default-network-opts": "the same words, from another step",
    "fixed-cidr-v6": "Go's parser of prefixes",
    "host-gateway-ips": "Go's parser of addresses",
    "hosts": "Go's parser of URLs",
    "labels": "Go's path through the decoder",
    "mtu": "Go tells the number",
    "oom-score-adjust": "dockerd has it as a flag only",
    "proxies": "named by its type, as other objects are",
    "registry-mirrors": "the user is masked too",
}
TAKEN = {  # what only dockerd refuses
    "graph": "the older name of data-root",
    "node-generic-resources": "without effect, and marked so",
    "userland-proxy-path": "without effect, and marked so",
}


def test_the_answers_are_of_these_configurations() -> None:
    assert [[flags, document] for flags, document, _, _ in RECORDED] == json.loads(CONFIGS.read_text())


@pytest.mark.parametrize(("flags", "document", "code", "text"), RECORDED)
def test_one(
    flags: str, document: str, code: int, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(document)
    ours = main(["--validate", "--config-file", str(path), *flags.split()])
    captured = capsys.readouterr()
    said = normal(captured.out + captured.err, str(path))
    if (ours, said) == (code, text):
        return
    assert document != "{}" or not flags.startswith("--"), "command lines are read alike"
    key = next(reversed(json.loads(document)), "")
    if code == 0:
        assert ours == 1 and (key in EARLIER or (key in REFUSED and key in said))
    elif ours == 0:
        assert key in TAKEN
    else:
        assert key in OTHER_WORDS or flags in ("foo", "-H foo://x")
