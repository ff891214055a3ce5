"""File modes, between st_mode and Go's fs.FileMode. The numbers are those that Go's `os.Lstat` gives."""

from __future__ import annotations

import stat

import pytest

from sampan.spec import go_modes


@pytest.mark.parametrize(
    ("unix", "go"),
    [
        (stat.S_IFREG | 0o644, 0o644),
        (stat.S_IFDIR | 0o755, 2147484141),
        (stat.S_IFDIR | stat.S_ISVTX | 0o777, 2148532735),
        (stat.S_IFLNK | 0o777, 134218239),
        (stat.S_IFCHR | 0o666, 69206454),
        (stat.S_IFBLK | 0o660, 67109296),
        (stat.S_IFIFO | 0o600, 33554816),
        (stat.S_IFSOCK | 0o755, 16777709),
        (stat.S_IFREG | stat.S_ISUID | 0o4755, 8389101),
        (stat.S_IFREG | stat.S_ISGID | 0o2755, 4194797),
    ],
)
def test_both_ways(unix: int, go: int) -> None:
    assert go_modes.from_unix(unix) == go
    assert go_modes.kind(go) == stat.S_IFMT(unix) and go_modes.permissions(go) == stat.S_IMODE(unix)


def test_what_has_no_counterpart() -> None:
    assert go_modes.kind(1 << 19) is None and go_modes.kind(go_modes.DIRECTORY | go_modes.SYMLINK) is None
    assert go_modes.from_unix(0o644) == 0o644 | 1 << 19
