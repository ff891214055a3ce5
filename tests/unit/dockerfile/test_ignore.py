"""`.dockerignore`: contexts as a real client sent them, and each rule by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.errors import InvalidArgument
from sampan.spec.dockerfile.ignore import Ignore, lines, read
from tests.builder.entries import NOT_CONTEXT, Entry, entries


def ignore_file(entry: Entry) -> Path:
    own = entry.directory / f"{entry.file}.dockerignore"
    return own if own.exists() else entry.directory / ".dockerignore"


WITH_PATTERNS = [e for e in entries("good") if ignore_file(e).exists() and "buildkit" in e.doors]


@pytest.mark.parametrize("entry", WITH_PATTERNS, ids=lambda entry: entry.name)
def test_the_files_that_a_client_sends(entry: Entry) -> None:
    """COPY . /c/ shows them."""
    ignore = read(ignore_file(entry).read_bytes())
    found = [str(path.relative_to(entry.directory)) for path in entry.directory.rglob("*") if path.is_file()]
    kept = {path for path in found if path not in NOT_CONTEXT and not ignore.excludes(path)}
    sent = {p.removeprefix("c/") for p, item in entry.answer["buildkit"]["tree"].items() if item[0] == "file"}
    assert kept == sent
    for path in kept:
        for parent in Path(path).parents[:-1]:
            assert not ignore.excludes(str(parent)) or ignore.may_hold_exceptions(str(parent)), "would not be walked"


def test_enough_contexts_are_compared() -> None:
    assert len(WITH_PATTERNS) >= 5


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("**", "dir/file"), ("**/**", "dir/file"), ("dir/**", "dir/sub/file"), ("**/dir", "dir"),
        ("**/dir", "a/dir/file"),
        ("**/dir2/*", "dir/dir2/file"), ("**/dir2/**", "dir/dir2/dir3/file"), ("**file", "dir/myfile"),
        ("**/file*", "d/e/file.txt"),
        ("**/*.txt", "file.txt"), ("**/**/*.txt", "d/e/file.txt"), ("a**/*.txt", "a/d/e/file.txt"),
        ("a/*.txt**", "a/file.txt"),
        ("a[b-d]e", "ace"), ("a[^b-d]e", "aze"), (".*", ".foo"), ("abc?def", "abcZdef"), ("abc/**", "abc/def/ghi"),
        ("a(b)c/def", "a(b)c/def"), ("a.|)$(}+{bc", "a.|)$(}+{bc"), ("a\\\\", "a\\"), ("a\\*b", "a*b"), ("a*", "ab/c"),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f"), ("a*b?c*x", "abxbbxdbxebxczzx"), ("a?b", "a☺b"), ("[a-ζ]*", "α"),
        ("[\\]a]", "]"),
        ("[\\-]", "-"), ("*x", "xxx"), ("x*a**b", "xaab"), ("a/**/b/**/c", "a/b/b/x/c"), ("**/a/**/b*c*d", "x/a/bcd/e"),
        ("docs/", "docs/x"), ("./docs", "docs"), ("a/../b", "b"), (" spaced ", "spaced"),
    ],
)  # fmt: skip
def test_excluded(pattern: str, path: str) -> None:
    assert Ignore([pattern]).excludes(path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("**/**/*.txt2", "dir/dir/file.txt"), ("a/*.txt", "a/dir/file.txt"), ("a[b-d]e", "ae"), (".*", "foo"),
        ("abc.def", "abcZdef"),
        ("abc/**", "abc"), ("**/.foo", "bar.foo"), ("a*/b", "a/c/b"), ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f"),
        ("ab[^b-d]", "abc"),
        ("a*b?c*x", "abxbbxdbxebxczzy"), ("a???b", "a☺b"), ("a*b", "a/b"), ("a/**/b/**/c", "a/c/b"),
        ("/docs", "docs"), ("dir", "dirt"),
    ],
)  # fmt: skip
def test_not_excluded(pattern: str, path: str) -> None:
    assert not Ignore([pattern]).excludes(path)


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        (["**", "!util/web"], "util/web/foo", False),
        (["**", "!util/web", "util/web/foo"], "util/web/foo", True),
        (["docs", "!docs/README.md"], "docs/README.md", False),
        (["!fileutils.go", "*.go"], "fileutils.go", True),
        ([], "anything", False),
        (["k", "!k/two", "?"], "k/one", True),
        (["k", "!k/two", "?"], "k/two/three", False),
    ],
)
def test_the_last_pattern_that_matches_decides(patterns: list[str], path: str, excluded: bool) -> None:
    assert Ignore(patterns).excludes(path) is excluded


@pytest.mark.parametrize("pattern", ["[", "[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[^", "a[", "[^bc", "[z-a]"])
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(InvalidArgument, match="syntax error in pattern"):
        Ignore([pattern])


def test_an_exception_of_nothing() -> None:
    with pytest.raises(InvalidArgument, match='illegal exclusion pattern: "!"'):
        read("a\n!\n")


def test_reading_a_file() -> None:
    text = "\ufeff# comment\n\n  a/b/  \n#x\n /rooted\n! spaced\n!/r\n  # no comment\nx\r\n/\n"
    assert lines(text) == ["a/b", "rooted", "!spaced", "!r", "# no comment", "x", "/"]
    assert not read("# nothing\n")


@pytest.mark.parametrize(
    ("patterns", "directory", "may"),
    [
        (["a"], "a", False),
        (["a", "!a/b"], "a", True),
        (["a", "!ab"], "a", False),
        (["a", "!a/b/c"], "a/b", True),
        (["a", "!a/b/c"], "a/d", False),
        (["a", "!**/keep"], "a", True),
        (["a", "!b/*.txt"], "a", False),
        (["a", "!a/b*/c"], "a", True),
    ],
)
def test_which_directories_are_walked_for_exceptions(patterns: list[str], directory: str, may: bool) -> None:
    assert Ignore(patterns).may_hold_exceptions(directory) is may
