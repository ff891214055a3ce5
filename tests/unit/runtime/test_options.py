"""The table of mount options, against what mount(8) and OCI say of each."""

from __future__ import annotations

import pytest

from sampan.linux import mounts as m
from sampan.runtime import options
from sampan.runtime.options import parse, split_overlay_layers


@pytest.mark.parametrize("name", sorted(options.ATTRIBUTES))
def test_each_attribute_and_its_recursive_form(name: str) -> None:
    on, off = options.ATTRIBUTES[name]
    plain = parse("bind", [name])
    assert (plain.attr_set, plain.attr_clear) == (on, off)
    assert (plain.rec_set, plain.rec_clear) == (0, 0)
    deep = parse("bind", ["r" + name])
    assert (deep.rec_set, deep.rec_clear) == (on, off)
    assert (deep.attr_set, deep.attr_clear) == (0, 0)
    assert not plain.data and not deep.data


@pytest.mark.parametrize(
    ("first", "second", "on", "off"),
    [
        ("ro", "rw", 0, m.MOUNT_ATTR_RDONLY),
        ("rw", "ro", m.MOUNT_ATTR_RDONLY, 0),
        ("nosuid", "suid", 0, m.MOUNT_ATTR_NOSUID),
        ("noatime", "strictatime", m.MOUNT_ATTR_STRICTATIME, m.MOUNT_ATTR__ATIME & ~m.MOUNT_ATTR_STRICTATIME),
        ("strictatime", "relatime", 0, m.MOUNT_ATTR__ATIME),
    ],
)
def test_the_later_one_wins(first: str, second: str, on: int, off: int) -> None:
    result = parse("bind", [first, second])
    assert result.attr_set == on
    assert result.attr_clear & ~m.MOUNT_ATTR__ATIME == off & ~m.MOUNT_ATTR__ATIME


def test_data_is_what_is_left() -> None:
    result = parse("tmpfs", ["nosuid", "size=64k", "mode=1777", "huge", "k=a=b"])
    assert result.data == [("size", "64k"), ("mode", "1777"), ("huge", None), ("k", "a=b")]


def test_superblock_flags() -> None:
    assert parse("ext4", ["ro", "sync", "async", "defaults", "lazytime"]).superblock == ["sync", "lazytime", "ro"]
    assert parse("tmpfs", ["ro"]).superblock == []
    assert parse("bind", ["ro", "rbind"]).superblock == []


@pytest.mark.parametrize(("word", "recursive"), [("bind", False), ("rbind", True), ("bind-nonrecursive", False)])
def test_binds(word: str, recursive: bool) -> None:
    result = parse("", [word])
    assert (result.bind, result.recursive) == (True, recursive)


def test_own_words() -> None:
    result = parse("bind", ["idmap", "rslave", "private"])
    assert result.idmap == "idmap"
    assert result.propagation == [(m.MS_SLAVE, True), (m.MS_PRIVATE, False)]
    assert parse("bind", ["ridmap"]).idmap == "ridmap"
    assert parse("tmpfs", ["tmpcopyup"]).copy_up


@pytest.mark.parametrize(
    ("value", "layers"),
    [("/a", ["/a"]), ("/a:/b", ["/a", "/b"]), (r"/a\:b:/c", ["/a:b", "/c"]), (r"/a\\b:/c\d", [r"/a\b", "/cd"])],
)
def test_overlay_layers(value: str, layers: list[str]) -> None:
    assert split_overlay_layers(value) == layers
