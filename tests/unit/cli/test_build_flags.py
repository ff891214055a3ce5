"""Every flag of `sampan build --help` changes what is asked of the engine, is done here, or is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sampan.cli import flags
from sampan.cli.builder import build, refusals
from sampan.cli.session import CommandError

SENT = {  # flag → (value, query parameter, what it then says)
    "add-host": ("a:1.2.3.4", "extrahosts", ["a:1.2.3.4"]),
    "allow": ("network.host", "allow", ["network.host"]),
    "build-arg": ("a=b", "buildargs", '{"a": "b"}'),
    "build-context": ("a=docker-image://b", "contexts", '{"a": "docker-image://b"}'),
    "cache-from": ("a/b", "cachefrom", '[{"Type": "registry", "Attrs": {"ref": "a/b"}}]'),
    "cache-to": ("type=inline", "cacheto", '[{"Type": "inline", "Attrs": {}}]'),
    "call": ("outline", "call", "outline"),
    "cgroup-parent": ("/x", "cgroupparent", "/x"),
    "check": ("true", "call", "check"),
    "cpu-period": ("1000", "cpuperiod", 1000),
    "cpu-quota": ("2000", "cpuquota", 2000),
    "cpu-shares": ("3", "cpushares", 3),
    "cpuset-cpus": ("0", "cpusetcpus", "0"),
    "cpuset-mems": ("0", "cpusetmems", "0"),
    "file": ("Other", "dockerfile", "Other"),
    "isolation": ("hyperv", "isolation", "hyperv"),  # which the engine refuses
    "label": ("a=b", "labels", '{"a": "b"}'),
    "load": ("true", "outputs", '[{"Type": "image", "Attrs": {}}]'),
    "memory": ("5m", "memory", 5 << 20),
    "memory-swap": ("6m", "memswap", 6 << 20),
    "network": ("none", "networkmode", "none"),
    "no-cache": ("true", "nocache", True),
    "no-cache-filter": ("a", "nocachefilter", ["a"]),
    "on-error": ("commit", "onerror", "commit"),
    "output": ("type=cacheonly", "outputs", '[{"Type": "cacheonly", "Attrs": {}}]'),
    "platform": ("linux/amd64,linux/arm64", "platform", "linux/amd64,linux/arm64"),
    "pull": ("true", "pull", True),
    "push": ("true", "outputs", '[{"Type": "image", "Attrs": {"push": "true"}}]'),
    "security-opt": ("a=b", "securityopt", ["a=b"]),  # which the engine refuses
    "shm-size": ("7m", "shmsize", 7 << 20),
    "squash": ("true", "squash", True),
    "tag": ("a", "t", ["a"]),
    "target": ("a", "target", "a"),
    "ulimit": ("nofile=5:6", "ulimits", '[{"Name": "nofile", "Hard": 6, "Soft": 5}]'),
}
REFUSED = {
    "annotation": ("a=b", "--annotation a=b"),
    "attest": ("type=sbom", "--attest type=sbom"),
    "builder": ("other", '"other"'),
    "disable-content-trust": ("false", "--disable-content-trust=false"),
    "provenance": ("mode=max", "--provenance=mode=max"),
    "sbom": ("true", "--sbom=true"),
}
HERE = {  # done by the client; the test that shows it
    "cache-mount-export": "tests/compat/test_sampan_build.py, test_build_cli.py",
    "cache-mount-import": "tests/compat/test_sampan_build.py, test_build_cli.py",
    "compress": "test_compress_sends_gzip",
    "iidfile": "tests/compat/test_sampan_build.py, test_build_cli.py",
    "metadata-file": "tests/compat/test_sampan_build.py, test_build_cli.py",
    "progress": "tests/compat/test_sampan_build.py, test_build_cli.py",
    "quiet": "tests/compat/test_sampan_build.py, test_build_cli.py",
    "secret": "tests/compat/test_sampan_build.py, test_build_cli.py",
    "ssh": "tests/compat/test_sampan_build.py, test_build_cli.py",
}
WITHOUT_EFFECT = {"force-rm", "rm"}  # and --help says so


def asked(tmp_path: Path, *argv: str) -> dict[str, object]:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "Other").write_text("FROM scratch\n")
    opts, _ = flags.parse(flags.declared(build.FLAGS), list(argv), parsers=build.PARSERS)
    refusals.check(opts, classic=False)
    source = build.ContextSource(str(tmp_path), opts.text("file") and str(tmp_path / opts.text("file")))
    query = build.parameters(opts, source) | build.BuildFlags(opts).query
    return {name: value for name, value in query.items() if value is not None}


def test_each_flag_is_in_one_list() -> None:
    listed = {flag.name for flag in flags.declared(build.FLAGS) if not flag.hidden}
    lists = [set(SENT), set(REFUSED), set(HERE), WITHOUT_EFFECT]
    assert set().union(*lists) == listed
    assert sum(map(len, lists)) == len(listed)


@pytest.mark.parametrize("name", sorted(SENT))
def test_what_is_sent(name: str, tmp_path: Path) -> None:
    value, parameter, said = SENT[name]
    more = ["--tag=a"] if name == "push" else []
    found = asked(tmp_path, f"--{name}={value}", *more)[parameter]
    if isinstance(said, str) and said[0] in "[{":
        assert json.loads(str(found)) == json.loads(said)
    else:
        assert found == said
    assert asked(tmp_path, *more).get(parameter) != found


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    value, named = REFUSED[name]
    with pytest.raises(CommandError) as caught:
        asked(tmp_path, f"--{name}={value}")
    assert named in caught.value.message


@pytest.mark.parametrize("flag", ["--sbom=false", "--provenance=0", "--attest=type=sbom,disabled=true", "--builder="])
def test_what_asks_for_nothing_is_taken(flag: str, tmp_path: Path) -> None:
    assert asked(tmp_path, flag) == asked(tmp_path)


def test_what_has_no_effect_says_so() -> None:
    for flag in flags.declared(build.FLAGS):
        if flag.name in WITHOUT_EFFECT:
            assert flag.help.startswith("Accepted")


@pytest.mark.parametrize(
    ("flag", "message"),  # the words of buildx
    [
        ("--sbom=foo", "ERROR: invalid value foo"),
        ("--provenance=foo", "ERROR: invalid value foo"),
        ("--attest=foo", "ERROR: invalid value foo"),
        ("--builder=nope", 'ERROR: no builder "nope" found'),
        ("--push", "ERROR: failed to build: tag is needed when pushing to registry"),
        ("--allow=foo", "ERROR: failed to build: unknown entitlement foo"),
        ("--add-host=x", "ERROR: failed to build: invalid host x"),
        ("--build-arg==x", 'ERROR: invalid key-value pair "=x": empty key'),
        ("--label==x", 'ERROR: invalid key-value pair "=x": empty key'),
        (
            "--annotation=foo",
            'ERROR: failed to build: parse annotations: invalid annotation "foo", expected key=value',
        ),
    ],
)
def test_mistakes_in_the_words_of_buildx(flag: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        asked(tmp_path, flag)
    assert caught.value.message == message


def test_compress_sends_gzip(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    whole = b"".join(build.ContextSource(str(tmp_path), "").pieces())
    packed = b"".join(build.ContextSource(str(tmp_path), "", compress=True).pieces())
    import gzip

    assert packed != whole and gzip.decompress(packed) == whole


def test_a_large_context_is_offered_and_a_small_one_sent(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    assert offered(tmp_path) == {}
    (tmp_path / "big").write_bytes(b"")
    os.truncate(tmp_path / "big", build.SENT_WHOLE_BYTES + 1)
    assert offered(tmp_path) == {"context": str(tmp_path), "dockerfile": str(tmp_path)}
    assert offered(tmp_path, compress=True) == {}
    (tmp_path / ".dockerignore").write_text("big\n")
    assert offered(tmp_path) == {}
    (tmp_path / ".dockerignore").unlink()
    outside = tmp_path.parent / "outside.Dockerfile"
    outside.write_text("FROM scratch\n")
    with build.ContextSource(str(tmp_path), str(outside)).offered() as found:
        assert os.listdir(found["dockerfile"]) == [".dockerfile.outside"]
    assert not os.path.exists(found["dockerfile"])


def offered(directory: Path, *, compress: bool = False) -> dict[str, str]:
    with build.ContextSource(str(directory), "", compress=compress).offered() as found:
        return found
