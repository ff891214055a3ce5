"""What is decided before and after a registry speaks: endpoints, challenges, manifests, refusals, platforms."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sampan.daemon.config import load
from sampan.daemon.validation import ConfigError
from sampan.engine import platforms
from sampan.engine.images import pull
from sampan.engine.images.downloads import Slots
from sampan.engine.images.reports import Report
from sampan.engine.platforms import Platform
from sampan.errors import InvalidArgument
from sampan.registry import challenges, endpoints, manifests, refusals, transport
from sampan.registry.auth import ANONYMOUS
from sampan.registry.endpoints import RegistryRule, Settings
from sampan.registry.manifests import Descriptor, Index, IndexEntry, Manifest
from sampan.spec import oci_image, reference

HUB = "https://registry-1.docker.io"
DIGEST = "sha256:" + "a" * 64


def _bases(name: str, settings: Settings, *, push: bool = False) -> list[list[str]]:
    return [
        [e.url("x") for e in schemes] for schemes in endpoints.candidates(reference.parse(name), settings, push=push)
    ]


def test_a_name_goes_to_its_registry() -> None:
    assert _bases("busybox", Settings()) == [[f"{HUB}/v2/library/busybox/x"]]
    assert _bases("r.example/a/b", Settings()) == [["https://r.example/v2/a/b/x"]]
    assert _bases("localhost:5000/a", Settings()) == [["https://localhost:5000/v2/a/x", "http://localhost:5000/v2/a/x"]]


@pytest.mark.parametrize(
    ("host", "insecure", "expected"),
    [
        ("127.0.0.1:5000", (), True),
        ("[::1]:5000", (), True),
        ("r.example", (), False),
        ("r.example:5000", ("r.example:5000",), True),
        ("r.example:5000", ("r.example",), True),
        ("10.1.2.3:5000", ("10.1.0.0/16",), True),
        ("10.2.2.3:5000", ("10.1.0.0/16",), False),
    ],
)
def test_who_may_be_insecure(host: str, insecure: tuple[str, ...], expected: bool) -> None:
    assert endpoints.is_insecure(host, insecure) is expected


def test_mirrors_come_first_and_only_for_pulls() -> None:
    settings = Settings(mirrors=("https://cache.example/",))
    assert _bases("busybox", settings) == [
        ["https://cache.example/v2/library/busybox/x"],
        [f"{HUB}/v2/library/busybox/x"],
    ]
    assert _bases("busybox", settings, push=True) == [[f"{HUB}/v2/library/busybox/x"]]
    assert _bases("r.example/a", settings) == [["https://r.example/v2/a/x"]]


def test_a_rule_has_mirrors_and_rewrites_of_its_own() -> None:
    table = {
        "r.example": {"mirrors": ["https://m.example/prefix"], "rewrite": {"^team/(.*)$": "proxy/$1"}, "insecure": True}
    }
    settings = Settings(rules=endpoints.rules(table))
    assert settings.rules["r.example"] == RegistryRule(
        mirrors=("https://m.example/prefix",), rewrite=(("^team/(.*)$", "proxy/$1"),), insecure=True
    )
    assert _bases("r.example/team/app", settings) == [
        ["https://m.example/prefix/v2/proxy/app/x"],
        ["https://r.example/v2/team/app/x", "http://r.example/v2/team/app/x"],
    ]


@pytest.mark.parametrize(
    ("registries", "words"),
    [
        ({"a/b": {}}, "a key must be a registry's host"),
        ({"r.example": {"mirror": []}}, "unknown key 'mirror'"),
        ({"r.example": {"insecure": "yes"}}, "insecure has the wrong type"),
        ({"r.example": {"mirrors": ["m.example"]}}, "is not a valid mirror"),
        ({"r.example": {"rewrite": {"(": "x"}}}, "is not a regular expression"),
        ({"r.example": {"rewrite": {"a": "$1"}}}, "invalid replacement"),
        ({"r.example": []}, "cannot unmarshal array"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Any, registries: dict[str, Any], words: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(json.dumps({"registries": registries}))
    with pytest.raises(ConfigError, match=words):
        load({"config-file": str(path)})


def test_challenges() -> None:
    header = (
        'Bearer realm="https://a.example/token?x=1,2",service="s \\"q\\"",scope="repository:a:pull,push", '
        'Basic realm="b"'
    )
    bearer, basic = challenges.parse([header])
    assert (bearer.scheme, basic.scheme) == ("bearer", "basic")
    assert bearer.parameters["realm"] == "https://a.example/token?x=1,2"
    assert bearer.parameters["service"] == 's "q"'
    assert bearer.parameters["scope"] == "repository:a:pull,push"
    assert [c.scheme for c in challenges.parse(["Negotiate", "Basic realm=x"])] == ["negotiate", "basic"]
    assert challenges.parse(["", "=;;"]) == []


def _document(**changes: Any) -> dict[str, Any]:
    described = {"mediaType": manifests.DOCKER_CONFIG, "size": 3, "digest": DIGEST}
    layer = {"mediaType": manifests.DOCKER_LAYER, "size": 5, "digest": DIGEST}
    document = {
        "schemaVersion": 2,
        "mediaType": oci_image.DOCKER_MANIFEST,
        "config": described,
        "layers": [layer],
    }
    document.update(changes)
    return {key: value for key, value in document.items() if value is not None}


def _parse(document: Any, media_type: str = oci_image.DOCKER_MANIFEST) -> Manifest | Index:
    return manifests.parse(json.dumps(document).encode(), media_type, "r.example/app:1")


def test_a_manifest() -> None:
    parsed = _parse(_document())
    assert isinstance(parsed, Manifest)
    assert parsed.layers == (Descriptor(manifests.DOCKER_LAYER, DIGEST, 5),)
    assert _parse(_document(mediaType=None)) == parsed
    assert isinstance(_parse(_document(mediaType=None), "application/json"), Manifest)


@pytest.mark.parametrize(
    ("document", "media_type", "words"),
    [
        (_document(manifests=[]), "", "more than one kind"),
        (_document(), oci_image.MEDIA_INDEX, "calls itself"),
        (_document(mediaType=None), oci_image.MEDIA_INDEX, "its fields are not those of"),
        (_document(schemaVersion=3), "", "unknown schemaVersion"),
        (_document(schemaVersion=1), "", "schema 1 support has been removed"),
        (_document(mediaType="text/x"), "text/x", "unsupported manifest media type"),
        (_document(config=None), "", "a descriptor is missing"),
        (
            _document(config={"mediaType": "x/y", "size": 1, "digest": DIGEST}),
            "",
            r'Encountered remote "x/y"\(unknown\)',
        ),
        (
            _document(layers=[{"mediaType": "x/y", "size": 1, "digest": DIGEST}]),
            "",
            "unsupported media type 'x/y' of layer",
        ),
        (_document(layers=[{"mediaType": "", "size": 1, "digest": "sha256:../../x"}]), "", "invalid digest"),
        (_document(layers=[{"mediaType": "", "size": -1, "digest": DIGEST}]), "", "invalid size"),
        (_document(layers=[{"mediaType": "", "size": True, "digest": DIGEST}]), "", "wrong type"),
        (_document(layers=[{}] * 2000), "", "no list of at most"),
        ([], "", "not a JSON object"),
    ],
)
def test_bad_manifests(document: Any, media_type: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        _parse(document, media_type or oci_image.DOCKER_MANIFEST)


def test_a_huge_manifest_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="more than"):
        manifests.parse(b" " * (manifests.MAX_BYTES + 1), "", "x")


def test_the_manifest_of_a_push_is_dockers_to_the_byte() -> None:
    """Recorded from the reference's push of an image of one layer."""
    config = Descriptor(
        manifests.DOCKER_CONFIG, "sha256:a66796d913f148a291db45d59af0b19abdeaface72ca1837ff72675f81c9d90d", 900
    )
    layer = Descriptor(
        manifests.DOCKER_LAYER, "sha256:8126164cb511e14aa036d581c8697e605c41c253b645035e52bb6d9886aa8dce", 1083818
    )
    raw = manifests.write(config, (layer,))
    assert len(raw) == 527
    assert oci_image.digest(raw) == "sha256:21202951d7741877ef1cffc76b363d2cac2684b8d8e5b0ab56f5a97c5e2ae360"


@pytest.mark.parametrize(
    ("status", "body", "words", "code"),
    [
        (
            404,
            b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}',
            "manifest unknown: manifest unknown",
            404,
        ),
        (401, b"", "unauthorized: authentication required", 401),
        (403, b'{"errors":[{"code":"DENIED","message":"no"}]}', "denied: no", 403),
        (429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}', "toomanyrequests: slow down", 429),
        (503, b"busy", "received unexpected HTTP status: 503 Service Unavailable", 500),
        (400, b'{"errors":[{"code":"A_B","message":"x"},{"code":"C","message":"y"}]}', "errors:\na b: x\nc: y\n", 500),
        (404, b'{"errors":"x"}', 'error parsing HTTP 404 response body: "{\\"errors\\":\\"x\\"}"', 500),
    ],
)  # fmt: skip
def test_refusals(status: int, body: bytes, words: str, code: int) -> None:
    refused = refusals.read(status, body)
    assert (refused.message, refused.status) == (words, code)


def test_what_may_pass() -> None:
    assert [refusals.read(status, b"").passing for status in (400, 401, 404, 429, 500, 501, 503)] == [
        False, False, False, True, True, False, True,
    ]  # fmt: skip
    assert refusals.read(429, b"", retry_after="7").retry_after_s == 7
    assert refusals.read(503, b"", retry_after="Wed, 21 Oct 2015 07:28:00 GMT").retry_after_s is None


def _entry(architecture: str, variant: str = "", os: str = "linux") -> IndexEntry:
    return IndexEntry(Descriptor("", DIGEST, 1), os, architecture, variant)


@pytest.mark.parametrize(
    ("target", "offered", "chosen"),
    [
        ("linux/amd64", ["arm64", "amd64"], 1),
        ("linux/amd64", ["amd64/v3", "amd64"], 1),
        ("linux/amd64", ["amd64/v3"], None),
        ("linux/arm/v7", ["arm/v5", "arm/v6", "arm64/v8"], 1),
        ("linux/arm/v6", ["arm/v7"], None),
        ("linux/arm64", ["arm64/v8"], 0),
        ("linux/s390x", ["amd64"], None),
    ],
)
def test_the_platform_of_an_index(target: str, offered: list[str], chosen: int | None) -> None:
    entries = [_entry(*text.split("/")) for text in offered]
    found = pull.choose(entries, platforms.parse(target))
    assert found is (None if chosen is None else entries[chosen])
    assert pull.choose([_entry("amd64", os="windows")], Platform("linux", "amd64")) is None


def test_attestations_are_no_images() -> None:
    described = {"mediaType": oci_image.MEDIA_MANIFEST, "size": 1, "digest": DIGEST}
    attestation = {**described, "annotations": {manifests.ATTESTATION: "attestation-manifest"}}
    parsed = _parse(
        {
            "schemaVersion": 2,
            "manifests": [attestation, {**described, "platform": {"os": "linux", "architecture": "amd64"}}],
        },
        oci_image.MEDIA_INDEX,
    )
    assert isinstance(parsed, Index)
    assert [e.architecture for e in parsed.entries] == ["amd64"]


def test_origins() -> None:
    assert transport.origin("https://a.example/x") == transport.origin("https://a.example:443/y?z")
    assert transport.origin("http://a.example/") != transport.origin("https://a.example/")


def test_slots_are_given_in_turn() -> None:
    async def main() -> list[str]:
        slots, order = Slots(1), []

        async def work(name: str) -> None:
            async with slots.slot():
                order.append(name)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(work(name)) for name in "abc"]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert slots.free
        slots.resize(0)
        await asyncio.gather(work("d"), work("e"))
        return order

    assert asyncio.run(main()) == ["a", "c", "d", "e"]


def test_a_slow_reader_gets_only_the_last_position_of_a_bar() -> None:
    async def main() -> list[tuple[str, int]]:
        report = Report()

        async def work() -> None:
            report.line("x", "Pulling fs layer")
            for position in range(1000):
                report.bar("x", "Downloading", position, 1000)
            report.line("x", "Download complete")

        return [(m["status"], m["progressDetail"].get("current", -1)) async for m in report.during(work())]

    assert asyncio.run(main()) == [("Pulling fs layer", -1), ("Downloading", 999), ("Download complete", -1)]


def test_a_request() -> None:
    def made(name: str, tag: str) -> tuple[str, bool]:
        wanted = pull.request(name, tag, platform="", credentials=ANONYMOUS)
        return str(wanted.name), wanted.every

    assert made("busybox", "") == ("docker.io/library/busybox", True)
    assert made("busybox", "1") == ("docker.io/library/busybox:1", False)
    assert made("busybox:2", "1") == ("docker.io/library/busybox:1", False)
    assert made("busybox", DIGEST) == (f"docker.io/library/busybox@{DIGEST}", False)
    with pytest.raises(InvalidArgument, match="invalid tag format"):
        made("busybox", "b@d")
