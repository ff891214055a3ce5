"""Docker's user syntax against passwd and group, good and hostile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.linux.accounts import parse_group, parse_passwd
from sampan.runtime.failure import RuntimeFailure
from sampan.runtime.user import home_of, resolve

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
# comment:x:9:9:::
adm:x:42:43::/var/adm:/bin/false

short
1000:x:7:8::/seven:
bob:x:1000:1001:Bob:/home/bob:/bin/sh
"""
GROUP = """\
root:x:0:
adm:x:43:root,adm
staff:x:50:bob,root
50x:x:51:
"""


@pytest.mark.parametrize(
    ("name", "extra", "uid", "gid", "groups", "home"),
    [
        ("", [], 0, 0, [0, 43, 50], "/root"),
        ("root", [], 0, 0, [0, 43, 50], "/root"),
        ("0", [], 0, 0, [0, 43, 50], "/root"),
        ("bob", [], 1000, 1001, [1001, 50], "/home/bob"),
        ("1000", [], 7, 8, [8], "/seven"),  # a name that is a number is a name first
        ("bob:adm", [], 1000, 43, [43], "/home/bob"),
        ("bob:77", [], 1000, 77, [77], "/home/bob"),
        ("5", [], 5, 0, [0], ""),
        ("5:6", [], 5, 6, [6], ""),
        (":6", [], 0, 6, [6], "/root"),
        ("bob:", ["adm", "50x", "12"], 1000, 1001, [1001, 50, 43, 51, 12], "/home/bob"),
        ("short", [], 0, 0, [0], ""),
    ],
)
def test_resolve(name: str, extra: list[str], uid: int, gid: int, groups: list[int], home: str) -> None:
    who = resolve(name, extra, PASSWD, GROUP)
    assert (who.uid, who.gid, who.groups, who.home) == (uid, gid, groups, home)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ghost", "unable to find user ghost: no matching entries in passwd file"),
        ("comment", "unable to find user comment: no matching entries in passwd file"),
        ("root:ghosts", "unable to find group ghosts: no matching entries in group file"),
        ("2147483648", "uids and gids must be in range 0-2147483647"),
        ("99999999999999999999999999", "uids and gids must be in range 0-2147483647"),
        ("-1", "uids and gids must be in range 0-2147483647"),
        ("0:4294967296", "uids and gids must be in range 0-2147483647"),
    ],
)
def test_refused(name: str, message: str) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        resolve(name, [], PASSWD, GROUP)
    assert (caught.value.step, caught.value.message) == ("user", message)


def test_ids_in_the_files_are_checked_as_well() -> None:
    with pytest.raises(RuntimeFailure, match="uids and gids must be in range"):
        resolve("evil", [], "evil:x:4294967296:0::/:", "")
    with pytest.raises(RuntimeFailure, match="uids and gids must be in range"):
        resolve("root", [], PASSWD, "g:x:4294967296:root")


def test_home_of() -> None:
    assert home_of(42, PASSWD) == "/var/adm"
    assert home_of(12345, PASSWD) == ""


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=30))
def test_no_text_breaks_the_parsers(passwd: str, group: str, name: str) -> None:
    for entry in parse_passwd(passwd):
        assert entry.name and entry.uid >= 0
    parse_group(group)
    try:
        who = resolve(name, [], passwd, group)
    except RuntimeFailure as error:
        step = error.step
    else:
        step = "user"
        assert all(0 <= value < 2**31 for value in (who.uid, *who.groups))
    assert step == "user"
