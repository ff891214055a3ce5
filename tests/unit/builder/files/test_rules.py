"""Wildcards as Go's, modes as chmod's, names of downloads, addresses of repositories."""

from __future__ import annotations

import re

import pytest

from sampan.engine.builder.files import git, http, modes, wildcards
from sampan.engine.builder.ops import GitOp
from sampan.errors import InvalidArgument


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [  # the table of Go's own documentation and tests
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*c", "abc", True),
        ("a*", "a", True),
        ("a*", "ab/c", False),
        ("a*/b", "abc/b", True),
        ("a*/b", "a/c/b", False),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False),
        ("ab[^c]", "abc", False),
        ("ab[^e-g]", "abc", True),
        ("a\\*b", "a*b", True),
        ("a\\*b", "ab", False),
        ("a?b", "a☺b", True),
        ("a[^a]b", "a☺b", True),
        ("a???b", "a☺b", False),
        ("[a-ζ]*", "α", True),
        ("*[a-ζ]", "A", False),
        ("a?b", "a/b", False),
        ("a*b", "a/b", False),
        ("[\\]a]", "]", True),
        ("[\\-]", "-", True),
        ("[x\\-]", "-", True),
        ("[]a]", "]", False),
        ("[-]", "-", False),
        ("[x-]", "x", False),
        ("[a-b-c]", "a", False),
        ("[", "a", False),
        ("[^", "a", False),
        ("a[", "a", False),
        ("a[", "ab", False),
        ("*x", "xxx", True),
        (".", "x", False),
        ("a\nb", "a\nb", True),
    ],
)
def test_wildcards(pattern: str, path: str, expected: bool) -> None:
    assert wildcards.matches(pattern, path) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a", False), ("a*", True), ("\\*", False), ("\\\\*", True), ("a[", True), ("a\\", False), ("?", True)],
)
def test_what_is_a_wildcard(name: str, expected: bool) -> None:
    assert wildcards.has_wildcard(name) is expected


@pytest.mark.parametrize(
    ("text", "mode", "directory", "expected"),
    [
        ("640", 0o777, False, 0o640),
        ("4711", 0o600, False, 0o4711),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o700, False, 0o755),
        ("u=rwX,go=rX", 0o700, True, 0o755),
        ("a-w,u+x", 0o644, False, 0o544),
        ("g=u,o=", 0o755, False, 0o770),
        ("+t,u+s", 0o644, False, 0o5644),
        ("+x", 0o600, False, 0o711),
        ("u+x-w", 0o600, False, 0o500),
        ("o=g", 0o640, False, 0o644),
        ("=", 0o777, False, 0o000),
        ("ug+s", 0o755, True, 0o6755),
        ("g-s", 0o2755, True, 0o755),
        ("u=rwx", 0o2755, True, 0o2755),
    ],
)
def test_modes(text: str, mode: int, directory: bool, expected: int) -> None:
    assert modes.parse(text)(mode, directory) == expected


@pytest.mark.parametrize("text", ["zzz", "888", "17777", "u", "u=q", "u=r,,g=r", "u=ru"])
def test_bad_modes(text: str) -> None:
    octal = f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
    with pytest.raises(InvalidArgument, match=re.escape(octal) if text[:1].isdigit() else "^invalid syntax$"):
        modes.parse(text)


@pytest.mark.parametrize(
    ("url", "disposition", "expected"),
    [
        ("http://h/a/b.txt?x=1#f", "", "b.txt"),
        ("http://h/", "", "download"),
        ("http://h", "", "download"),
        ("http://h/a%20b", "", "a b"),
        ("http://h/x", 'attachment; filename="y.bin"', "y.bin"),
        ("http://h/x", 'attachment; filename="../../etc/passwd"', "passwd"),
        ("http://h/x", 'attachment; filename=".."', "x"),
        ("http://h/x", 'attachment; filename="dir/"', "x"),
        ("http://h/x", "attachment", "x"),
    ],
)
def test_names_of_downloads(url: str, disposition: str, expected: str) -> None:
    assert http.file_name(url, disposition) == expected


def test_addresses() -> None:
    op = git.address(GitOp(remote="https://h/r.git?ref=v1&subdir=a/b&checksum=0123456789&keep-git-dir=true"))
    assert (op.remote, op.ref, op.subdir, op.checksum, op.keep_git_dir) == (
        "https://h/r.git",
        "v1",
        "a/b",
        "0123456789",
        True,
    )
    assert git.address(GitOp(remote="git@github.com:o/r.git", ref="x")).remote == "git@github.com:o/r.git"
    assert git.address(GitOp(remote="https://h/r.git?tag=v1")).ref == "refs/tags/v1"
    assert git.address(GitOp(remote="https://h/r.git?branch=b")).ref == "refs/heads/b"


@pytest.mark.parametrize(
    "op",
    [
        GitOp(remote="ext::sh -c id"),
        GitOp(remote="file:///etc"),
        GitOp(remote="/etc"),
        GitOp(remote="--upload-pack=id"),
        GitOp(remote="ssh://-oProxyCommand=id/x"),
        GitOp(remote="-x@h:y"),
        GitOp(remote="https://h/r.git", ref="-x"),
        GitOp(remote="https://h/r.git", ref="a\nb"),
        GitOp(remote="https://h/r.git?what=1"),
        GitOp(remote="https://h/r.git", checksum="main"),
    ],
    ids=lambda op: f"{op.remote} {op.ref!r}",
)
def test_addresses_that_are_none(op: GitOp) -> None:
    with pytest.raises(InvalidArgument):
        git.address(op)
