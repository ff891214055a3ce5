"""COPY, ADD and WORKDIR instructions, the context and the base image that they are tried on.

`record.py` asks the reference engine once, `test_copies.py` compares our copy engine with its answers (copies.json).
"""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path
from typing import Any

from tests.support.tars import member, tar

T = 1577934245  # when everything in the context was written, unless it says otherwise
PASSWD = "root:x:0:0::/:/bin/sh\njoe:x:1234:555::/:/bin/sh\n"
GROUP = "root:x:0:\ncrew:x:4321:\n"

# Everything the base image has: path → (kind, mode, uid, gid, content or link target, time or None)
BASE: dict[str, tuple[str, int, int, int, str, int | None]] = {
    "etc": ("d", 0o755, 0, 0, "", None),
    "etc/passwd": ("f", 0o644, 0, 0, PASSWD, T),
    "etc/group": ("f", 0o644, 0, 0, GROUP, T),
    "have": ("d", 0o755, 0, 0, "", 1500000000),
    "have/dir": ("d", 0o711, 5, 6, "", 1500000000),
    "have/dir/keep": ("f", 0o644, 0, 0, "k\n", 1500000000),
    "have/dir/sub": ("d", 0o755, 0, 0, "", 1500000000),
    "have/ro": ("d", 0o755, 0, 0, "", 1500000000),
    "have/file": ("f", 0o644, 0, 0, "x\n", 1500000000),
    "have/etc": ("l", 0o777, 0, 0, "/etc", None),
    "real": ("d", 0o755, 0, 0, "", 1500000000),
    "clash": ("d", 0o755, 0, 0, "", 1500000000),
    "clash/file": ("d", 0o755, 0, 0, "", 1500000000),
    "m": ("d", 0o755, 0, 0, "", 1500000000),
    "m/lsub": ("l", 0o777, 0, 0, "/real", None),
    "lnk": ("l", 0o777, 0, 0, "/real", None),
    "rellnk": ("l", 0o777, 0, 0, "real", None),
    "lfile": ("l", 0o777, 0, 0, "/have/file", None),
    "climb": ("l", 0o777, 0, 0, "../../../../real", None),
    "dang": ("l", 0o777, 0, 0, "/notyet/deep", None),
    "loopa": ("l", 0o777, 0, 0, "loopb", None),
    "loopb": ("l", 0o777, 0, 0, "loopa", None),
}

# What stands in the Dockerfile after `FROM base`
CASES: dict[str, str] = {
    "file_to_file": "COPY a.txt /new.txt",
    "file_to_dirslash": "COPY a.txt /nd/",
    "file_deep": "COPY a.txt /p/q/r/f.txt",
    "file_to_existing_dir": "COPY a.txt /have/dir",
    "file_over_file": "COPY a.txt /have/file",
    "file_workdir_rel": "WORKDIR /w/d\nCOPY a.txt sub/x",
    "file_dot": "WORKDIR /w/d\nCOPY a.txt .",
    "two_files": "COPY a.txt b.txt /two/",
    "modes": "COPY run.sh suid b.txt /m2/",
    "dir_to_new": "COPY dir /newdir",
    "dir_to_newslash": "COPY dir/ /newdir/",
    "dir_to_existing": "COPY dir /have/dir",
    "dir_merge_sub": "COPY other /have/dir/",
    "emptydir": "COPY empty /e",
    "dir_empty_into": "COPY empty /have/dir",
    "two_dirs": "COPY dir other /two/",
    "dir_and_file": "COPY dir a.txt /two/",
    "wild_txt": "COPY *.txt /wt/",
    "wild_one": "COPY a*.txt /wone",
    "wild_q": "COPY ?.txt /wq/",
    "wild_class": "COPY [ab].txt /wc/",
    "wild_negclass": "COPY [^a].txt /wc/",
    "wild_escape": "COPY \\[x\\].txt /we/",
    "wild_escape2": "COPY [[]x].txt /we/",
    "wild_dir": "COPY d*r /wd/",
    "wild_deep": "COPY dir/*/three /wdp/",
    "wild_deep2": "COPY */one /wdp/",
    "wild_dirs": "COPY tree/* /wds/",
    "wild_none": "COPY nothing*.zip /wn/",
    "wild_badpat": "COPY a[ /x/",
    "wild_star_hidden": "COPY dir/* /wh/",
    "wild_space": 'COPY ["sp ace.txt", "/sp/"]',
    "missing": "COPY nope /x",
    "missing_dir": "COPY dir/nope /x",
    "missing_one_of_two": "COPY a.txt nope /x/",
    "file_as_dir": "COPY a.txt/ /x",
    "file_as_dir2": "COPY a.txt/z /x",
    "link_file": "COPY lfile /lf",
    "link_file_todir": "COPY lfile /lfd/",
    "link_dir": "COPY ldir /ld",
    "link_dir_slash": "COPY ldir/ /ld/",
    "link_abs": "COPY labs /la",
    "link_out": "COPY lout /lo",
    "link_dangle": "COPY dangle /dg",
    "link_loop": "COPY loop1 /lp",
    "links_within": "COPY dir /lw",
    "link_through": "COPY ldir/one /lt",
    "link_wild": "COPY l* /lw/",
    "link_wild_in": "COPY ldir/t* /lw/",
    "hardlinks": "COPY hl /hl",
    "hardlinks_files": "COPY hl/1 hl/2 /hl/",
    "hardlinks_wild": "COPY hl/* /hl/",
    "dst_link_dir": "COPY a.txt /lnk/",
    "dst_link_dir2": "COPY a.txt /lnk",
    "dst_rellnk": "COPY a.txt /rellnk/x",
    "dst_link_file": "COPY a.txt /lfile",
    "dst_climb": "COPY a.txt /climb/x",
    "dst_dangle": "COPY a.txt /dang/x",
    "dst_dangle2": "COPY a.txt /dang",
    "dst_dir_over_link": "COPY dir /lnk",
    "dst_loop": "COPY a.txt /loopa/x",
    "file_over_dir": "COPY clash /",
    "file_over_dir2": "COPY clash/dst /clash",
    "file_over_dir3": "COPY dirfile /have/dir",
    "dir_over_file": "COPY dir /have/file",
    "dir_over_file2": "COPY dir/ /have/file/",
    "dir_over_link_inside": "COPY linkin /m",
    "file_below_file": "COPY a.txt /have/file/x",
    "file_slash_file": "COPY a.txt /have/file/",
    "chown_num": "COPY --chown=12:34 dir /c",
    "chown_num_only": "COPY --chown=12 a.txt /c/d",
    "chown_name": "COPY --chown=joe a.txt /c",
    "chown_name_group": "COPY --chown=joe:crew a.txt /c",
    "chown_group_only": "COPY --chown=:crew a.txt /c",
    "chown_name_num": "COPY --chown=joe:9 a.txt /c",
    "chown_unknown": "COPY --chown=ghost a.txt /c",
    "chown_unknown_group": "COPY --chown=joe:ghosts a.txt /c",
    "chown_parents": "COPY --chown=12:34 a.txt /new/er/x",
    "chown_suid": "COPY --chown=12:34 suid /c/",
    "chown_existing": "COPY --chown=12:34 other /have/dir",
    "chown_link": "COPY --chown=12:34 dir /c",
    "chown_num_known": "COPY --chown=1234 a.txt /c",
    "chown_empty": "COPY --chown= a.txt /c",
    "chmod_oct": "COPY --chmod=640 dir /c",
    "chmod_file_parents": "COPY --chmod=700 a.txt /new/er/x",
    "chmod_suid": "COPY --chmod=4711 a.txt /c",
    "chmod_sym": "COPY --chmod=u=rwX,go=rX dir /c",
    "chmod_sym2": "COPY --chmod=a-w,u+x a.txt run.sh /c/",
    "chmod_sym3": "COPY --chmod=g=u,o= run.sh /c",
    "chmod_symt": "COPY --chmod=+t,u+s dir /c",
    "chmod_bad": "COPY --chmod=zzz a.txt /c",
    "chmod_existing": "COPY --chmod=700 other /have/dir",
    "chmod_links": "COPY --chmod=700 dir /c",
    "exclude": "COPY --exclude=*.txt dir /x",
    "exclude_deep": "COPY --exclude=**/*.txt dir /x",
    "exclude_dir": "COPY --exclude=sub dir /x",
    "exclude_wild": "COPY --exclude=b.txt *.txt /x/",
    "exclude_file": "COPY --exclude=a.txt a.txt b.txt /x/",
    "exclude_neg": "COPY --exclude=sub/** --exclude=!sub/three dir /x",
    "exclude_all": "COPY --exclude=* dir /x",
    "add_tar": "ADD x.tar /t/",
    "add_tar_new": "ADD x.tar /tt",
    "add_tgz": "ADD x.tgz /t/",
    "add_bz2": "ADD x.tar.bz2 /t/",
    "add_xz": "ADD x.tar.xz /t/",
    "add_chown": "ADD --chown=12:34 x.tar /t/n/",
    "add_chmod": "ADD --chmod=700 x.tar /t/n/",
    "add_evil": "ADD evil.tar /e/v/",
    "add_over": "ADD over.tar /",
    "add_overfile": "ADD overfile.tar /have/",
    "add_plaingz": "ADD plain.gz /g/",
    "add_trunc": "ADD trunc.tar /g/",
    "add_emptytar": "ADD empty.tar /g/",
    "add_file": "ADD a.txt /g/",
    "add_wild": "ADD x.t[ag]? /g/",
    "add_link": "ADD lfile /g/",
    "add_dir": "ADD dir /g",
    "add_unpack_false": "ADD --unpack=false x.tar /t/",
    "add_intofile": "ADD x.tar /have/file",
    "add_over2": "ADD over.tar /have/",
    "link_opt": "COPY --link a.txt /k/l/",
    "link_opt_lnk": "COPY --link a.txt /lnk/",
    "link_opt_dir": "COPY --link dir /have/dir",
    "link_opt_chown": "COPY --link --chown=12:34 dir /n/n",
    "link_opt_chownname": "COPY --link --chown=joe a.txt /n",
    "link_opt_file": "COPY --link a.txt /have/dir",
    "heredoc": "COPY <<EOF /h/file\nhello\nEOF",
    "heredoc_dir": "COPY <<one <<two /h/\n1\none\n2\ntwo",
    "heredoc_chmod": "COPY --chmod=755 --chown=12:34 <<EOF /h/file\nhello\nEOF",
    "heredoc_existing_dir": "COPY <<EOF /have/dir\nhello\nEOF",
    "heredoc_sym": "COPY --chmod=u+x <<EOF /h/f\nhello\nEOF",
    "workdir": "WORKDIR /w/x/y",
    "workdir_user": "USER joe\nWORKDIR /w/x",
    "workdir_link": "WORKDIR /lnk/sub",
    "workdir_file": "WORKDIR /have/file",
    "workdir_dang": "WORKDIR /dang/x",
    "root_dst": "COPY a.txt /",
    "dst_dots": "COPY a.txt /x/../../y/./z",
    "copy_src_abs": "COPY /a.txt /x/",
    "copy_src_dots": "COPY ../../a.txt /x/",
    "copy_src_dots2": "COPY dir/../a.txt /x/",
    "case_trailing_dot": "COPY dir/. /x",
    "dst_trailing_dot": "COPY a.txt /x/.",
    "hidden_only": "COPY dir/.hidden /x/",
}

# A stage and what is copied from it: `FROM base AS s`, the files, `FROM base`, the instruction
STAGES: dict[str, tuple[str, str]] = {
    "from_owner": ("RUN mkdir /s && echo 1 >/s/f && chown 11:22 /s/f /s && chmod 4755 /s/f", "COPY --from=s /s /d"),
    "from_file_owner": ("RUN echo 1 >/f && chown 11:22 /f", "COPY --from=s /f /f2"),
    "from_link": ("RUN mkdir /s && echo 1 >/s/f && ln -s f /s/l && ln -s /s /ls", "COPY --from=s /ls /s/l /d/"),
    "from_missing": ("RUN true", "COPY --from=s /nope /d"),
    "from_abs_link": ("RUN mkdir /s && ln -s /s/x /s/l && echo 1 >/s/x", "COPY --from=s /s/l /d"),
    "from_rel": ("RUN mkdir /s && echo 1 >/s/x", "COPY --from=s s/x /d/"),
    "from_chown_stage": ("RUN echo 1 >/f && chown 11:22 /f", "COPY --from=s --chown=joe /f /f2"),
}

FILES: list[tuple[str, str, int, int]] = [  # path, content, mode, seconds before T
    ("a.txt", "a", 0o644, 0),
    ("b.txt", "bb", 0o600, 0),
    ("c.md", "ccc", 0o644, 0),
    ("run.sh", "#!/bin/sh\n", 0o755, 0),
    ("suid", "x", 0o4755, 0),
    ("sp ace.txt", "s", 0o644, 0),
    ("[x].txt", "br", 0o644, 0),
    ("old.txt", "old", 0o644, 100000),
    ("dir/one", "1", 0o644, 0),
    ("dir/two.txt", "22", 0o644, 0),
    ("dir/sub/three", "333", 0o644, 0),
    ("dir/sub/deep/four.txt", "4", 0o644, 0),
    ("dir/.hidden", "h", 0o644, 0),
    ("other/one", "O1", 0o644, 0),
    ("other/sub/x", "X", 0o644, 0),
    ("clash/dst/file", "y", 0o644, 0),
    ("tree/a/1", "1", 0o644, 0),
    ("tree/b/1", "2", 0o644, 0),
    ("tree/a/n/2", "3", 0o644, 0),
    ("dirfile/sub", "iamafile", 0o644, 0),
    ("linkin/lsub/new", "n", 0o644, 0),
    ("hl/1", "hard", 0o644, 0),
]
LINKS = {
    "lfile": "a.txt",
    "ldir": "dir",
    "labs": "/a.txt",
    "lout": "../../../etc/passwd",
    "dangle": "nowhere",
    "dir/lin": "one",
    "dir/lup": "../a.txt",
    "loop1": "loop2",
    "loop2": "loop1",
}
Member = tuple[str, str, str, dict[str, Any]]
MEMBERS: list[Member] = [
    ("t/", "d", "", {"uid": 7, "gid": 8}),
    ("t/f", "f", "tar", {"uid": 7, "gid": 8}),
    ("t/l", "l", "f", {}),
    ("t/h", "h", "t/f", {}),
    ("imp/lied", "f", "i", {}),
    ("suid", "f", "s", {"mode": 0o4755}),
]
EVIL: list[Member] = [("../evil", "f", "e", {}), ("/abs", "f", "a", {})]
OVER: list[Member] = [
    ("have/", "d", "", {"mode": 0o700}),
    ("have/file", "f", "new", {}),
    ("link/through", "f", "t", {}),
    ("file/under", "f", "u", {}),
]
OVER_FILE: list[Member] = [("file", "d", "", {}), ("dir", "f", "isfile", {})]


def make_context(root: Path) -> None:
    """The context's files below an empty directory."""
    for name, content, mode, before in FILES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)
        os.utime(path, (T - before, T - before))
    (root / "empty").mkdir()
    (root / "dir/sub").chmod(0o700)
    (root / "empty").chmod(0o1777)
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
        os.utime(root / name, (T, T), follow_symlinks=False)
    (root / "hl/2").hardlink_to(root / "hl/1")
    for name, how in (("x.tar", ""), ("x.tgz", "gz"), ("x.tar.bz2", "bz2"), ("x.tar.xz", "xz")):
        (root / name).write_bytes(archive(MEMBERS, how))
    (root / "evil.tar").write_bytes(archive(EVIL))
    (root / "over.tar").write_bytes(archive(OVER))
    (root / "overfile.tar").write_bytes(archive(OVER_FILE))
    (root / "plain.gz").write_bytes(gzip.compress(b"hello", mtime=0))
    (root / "trunc.tar").write_bytes(archive(MEMBERS)[:700])
    (root / "empty.tar").write_bytes(bytes(10240))
    for path in root.iterdir():
        if path.is_file() and path.suffix in (".tar", ".tgz", ".gz", ".bz2", ".xz"):
            os.utime(path, (T, T))
    for directory, _, _ in os.walk(root, topdown=False):
        os.utime(directory, (T - 10, T - 10))


def archive(members: list[Member], compression: str = "") -> bytes:
    """A tar of (name, kind, content or target, attributes)."""
    kinds = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE}
    made = (
        member(
            name,
            content.encode() if kind == "f" else b"",
            kind=kinds[kind],
            link=content if kind in "lh" else "",
            **{"mtime": T - 5000, "mode": 0o750 if kind == "d" else 0o640, **attributes},
        )
        for name, kind, content, attributes in members
    )
    return tar(*made, format=tarfile.GNU_FORMAT, compression=compression)
