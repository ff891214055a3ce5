"""Names of images: parsed, normalised and refused as the reference engine does."""

from __future__ import annotations

import pytest

from sampan.errors import InvalidArgument
from sampan.spec import reference

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("user/app", "docker.io/user/app", "user/app"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox", "busybox"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("a.example:5000/a/b/c:T_1.x-y", "a.example:5000/a/b/c:T_1.x-y", "a.example:5000/a/b/c:T_1.x-y"),
        ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
        ("Host/app", "Host/app", "Host/app"),
        (f"app@sha256:{HEX}", f"docker.io/library/app@sha256:{HEX}", f"app@sha256:{HEX}"),
        (f"app:1@sha256:{HEX}", f"docker.io/library/app:1@sha256:{HEX}", f"app:1@sha256:{HEX}"),
        ("a__b/c.d-e--f", "docker.io/a__b/c.d-e--f", "a__b/c.d-e--f"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
    ],
)  # fmt: skip
def test_names(text: str, full: str, familiar: str) -> None:
    parsed = reference.parse(text)
    assert (str(parsed), parsed.familiar()) == (full, familiar)
    assert reference.parse(str(parsed)) == parsed and reference.parse(parsed.familiar()) == parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NOPE:bad:bad", "invalid reference format: repository name (library/NOPE) must be lowercase"),
        ("Bad Name", "invalid reference format: repository name (library/Bad Name) must be lowercase"),
        ("user/Bad", "invalid reference format: repository name (user/Bad) must be lowercase"),
        ("", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("a:", "invalid reference format"),
        ("a..b", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a/", "invalid reference format"),
        ("../../etc/passwd", "invalid reference format"),
        ("a:" + "t" * 129, "invalid reference format"),
        ("a@sha256:abc", "invalid reference format"),
        ("a@sha256:" + "a" * 32, "invalid checksum digest length"),
        ("a@md5:" + "a" * 32, "unsupported digest algorithm"),
        ("a@sha256:" + "A" * 64, "invalid checksum digest format"),
        (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        ("x.example/" + "a/" * 130, "invalid reference format"),
        ("a/" * 128 + "a", "repository name must not be more than 255 characters"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        reference.parse(text)
    assert refusal.value.message == message


def test_ids_tags_and_defaults() -> None:
    assert reference.parse_any(HEX) == reference.parse_any(f"sha256:{HEX}") == f"sha256:{HEX}"
    assert reference.parse("a").tagged().familiar() == "a:latest"
    assert reference.parse(f"a@sha256:{HEX}").tagged().tag == ""
    assert reference.with_tag(reference.parse("a:1"), "2").familiar() == "a:2"
    for tag in ("", ".x", "a b", "t" * 129):
        with pytest.raises(InvalidArgument, match="invalid tag format"):
            reference.with_tag(reference.parse("a"), tag)
