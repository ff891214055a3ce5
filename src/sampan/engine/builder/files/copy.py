"""File steps: COPY, ADD, WORKDIR and heredocs, carried out below a root descriptor. Blocking; in a thread.

What a destination means, as in BuildKit:

    dest ends in "/" or "/."    a directory, made with its parents
    a file as source            replaces a file, goes into a directory, and may not replace one
    a directory as source       its contents are merged into the destination, which is made 0755 when it is missing and
                                keeps its mode and owner when it is there; it gets the time of the source
    a link in the destination   is followed inside the root up to the destination itself; below it, it is replaced by
                                files and is an error for directories

The classic builder differs: below the destination a file replaces a directory, and a directory a file or a link
(`Copy.replaces`); its rules for owners are others (`Owner.classic`). That it loses setuid bits is not imitated.

Nothing becomes "now" (target.py).

Source: Dockerfile reference; measured on the reference engine (tests/kernel/builder/files/copies.json).
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Mapping

from sampan.engine.builder.files import archives, content, modes, owners
from sampan.engine.builder.files.selection import Item, select
from sampan.engine.builder.files.target import MADE_MODE, Look, Merge, RootWriter
from sampan.engine.builder.ops import Copy, FileOp, Mkdir, Mkfile, Vertex
from sampan.engine.builder.trees import Tree, TreeEntry
from sampan.errors import InvalidArgument, words
from sampan.linux import saferoot

_LINKS = 255


def execute(op: FileOp, base_root_fd: int, trees: Mapping[Vertex, Tree], time_ns: int = 0) -> int:
    """Carry out all actions below `base_root_fd`; with `op.link` that is an empty directory.

    trees: what the actions copy from. time_ns: the newest time that the base has, for what has no time of its own (the
    directories of WORKDIR, heredocs). Returns the newest time that was written, at least `time_ns`.
    Raises: MissingSource, InvalidArgument in BuildKit's words, OSError (ENOSPC, …). What was written then stays: the
    caller throws the file system away.
    """
    latest_ns = None if op.epoch_s is None else op.epoch_s * 10**9
    newest = time_ns
    for action in op.actions:
        try:
            newest = max(newest, _execute(action, base_root_fd, trees, latest_ns, time_ns))
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM):
                raise
            reason = "too many links" if e.errno == errno.ELOOP else f"{e.filename or ''}: {words(e)}"
            raise InvalidArgument(reason.removeprefix(": ")) from e
    return newest


def _execute(
    action: Copy | Mkdir | Mkfile, root_fd: int, trees: Mapping[Vertex, Tree], latest_ns: int | None, time_ns: int
) -> int:
    owner = None if action.owner is None else owners.resolve(root_fd, action.owner)
    if isinstance(action, Mkdir):
        look = Look(owner=owner, latest_ns=latest_ns)
        target = RootWriter(root_fd, look, action.mode & 0o7777)
        os.close(_directory(target, action.path))
        return target.finish(time_ns)
    change = modes.parse(action.chmod) if action.chmod else None
    mode = None if change is None else lambda entry: change(entry.mode, entry.kind == "d")
    look = Look(owner=owner, mode=mode, latest_ns=latest_ns)
    implied = change(MADE_MODE, True) & MADE_MODE if change is not None and action.chmod.isdecimal() else MADE_MODE
    target = RootWriter(root_fd, look, implied)
    if isinstance(action, Mkfile):
        _make_file(target, root_fd, action, time_ns)
    else:
        tree = trees[action.source]
        for item in select(tree, action):
            if not (action.unpack and _unpack(target, root_fd, tree, item, action, look)):
                _copy(target, root_fd, tree, item, action)
    return target.finish(time_ns)


def _clean(path: str) -> str:
    """An absolute path without `.` and `..`; a trailing slash or `/.` stays as a slash."""
    cleaned = posixpath.normpath("/" + path.lstrip("/"))
    return cleaned if cleaned == "/" or not path.endswith(("/", "/.")) else cleaned + "/"


def _directory(target: RootWriter, path: str, owner: tuple[int, int] | None = None) -> int:
    """Raises: InvalidArgument when something else is there."""
    try:
        return target.directory(path, owner)
    except NotADirectoryError:
        raise InvalidArgument(f"mkdir {path.rstrip('/')}: not a directory") from None


def _copy(target: RootWriter, root_fd: int, tree: Tree, item: Item, action: Copy) -> None:
    dest = _clean(action.dest)
    if item.directory and action.owner is not None and action.owner.classic:
        os.close(_directory(target, posixpath.dirname(dest.rstrip("/")) or "/", (0, 0)))
    os.close(_directory(target, dest if dest.endswith("/") else posixpath.dirname(dest)))
    if not item.directory:
        assert item.entry is not None
        _put(target, root_fd, tree, item.entry, dest, item.name)
        return
    there = _kind(root_fd, dest)
    if not action.contents_only and item.entry is not None:
        _whole(target, tree, item, dest, exists=there == "d")
        return
    if there not in ("", "d"):
        raise InvalidArgument(f"cannot copy to non-directory: {dest.rstrip('/')}")
    fd = _directory(target, dest)
    try:
        Merge(target, tree, fd, name=dest.rstrip("/"), replaces=action.replaces).run(item.inside, fresh=False)
        if item.entry is not None and not item.chosen:
            target.retime(dest, fd, item.entry.mtime_ns)
    finally:
        os.close(fd)


def _whole(target: RootWriter, tree: Tree, item: Item, dest: str, *, exists: bool) -> None:
    """Copy a directory itself: into a destination that is there, else as the destination."""
    assert item.entry is not None
    above, name = (dest, item.name) if exists else posixpath.split(dest.rstrip("/"))
    fd = _directory(target, above)
    try:
        inside = [(name, item.entry), *((f"{name}/{path}", entry) for path, entry in item.inside)]
        Merge(target, tree, fd, name=above.rstrip("/")).run(inside, fresh=False)
    finally:
        os.close(fd)


def _put(target: RootWriter, root_fd: int, tree: Tree, entry: TreeEntry, dest: str, name: str) -> None:
    """Copy what is no directory to `dest`, or into it."""
    if _kind(root_fd, dest) == "d":
        parent, base = dest, name
    else:
        parent, base = _final(root_fd, dest)
    fd = _directory(target, parent)
    try:
        target.touch(parent, fd)
        try:
            target.put(entry, fd, base, lambda out: content.write(tree, entry.path, out), over=True)
        except IsADirectoryError:
            raise InvalidArgument(f"cannot replace to directory {posixpath.join(parent, base)} with file") from None
    finally:
        os.close(fd)


def _make_file(target: RootWriter, root_fd: int, action: Mkfile, time_ns: int) -> None:
    entry = TreeEntry(path="", kind="f", mode=0o644, size=len(action.data), mtime_ns=time_ns)
    dest = _clean(action.path)
    os.close(_directory(target, dest if dest.endswith("/") else posixpath.dirname(dest)))
    if _kind(root_fd, dest) == "d":
        parent, base = dest, action.name
    else:
        parent, base = _final(root_fd, dest)
    fd = _directory(target, parent)
    try:
        target.touch(parent, fd)
        try:
            target.put(entry, fd, base, lambda out: content.write_all(out, action.data), over=True)
        except IsADirectoryError:
            raise InvalidArgument(f"open {posixpath.join(parent, base)}: is a directory") from None
    finally:
        os.close(fd)


def _kind(root_fd: int, path: str) -> str:
    """d for a directory, f for anything else, "" for nothing; links are followed inside the root."""
    try:
        fd = saferoot.open_in_root(root_fd, path)
    except FileNotFoundError:
        return ""
    try:
        return "d" if stat.S_ISDIR(os.fstat(fd).st_mode) else "f"
    finally:
        os.close(fd)


def _final(root_fd: int, path: str) -> tuple[str, str]:
    """(directory, name) of where a path ends when its last component's links are followed inside the root."""
    for _ in range(_LINKS):
        parent, _, name = path.rstrip("/").rpartition("/")
        try:
            fd = saferoot.open_in_root(root_fd, parent or "/", os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            return parent or "/", name
        try:
            link = os.readlink(name, dir_fd=fd)
        except OSError as e:
            if e.errno in (errno.EINVAL, errno.ENOENT):
                return parent or "/", name
            raise
        finally:
            os.close(fd)
        path = link if link.startswith("/") else f"{parent}/{link}"
    raise InvalidArgument("too many links")


def _unpack(target: RootWriter, root_fd: int, tree: Tree, item: Item, action: Copy, look: Look) -> bool:
    """ADD: unpack a source that is an archive. False: it is none."""
    if item.directory or item.entry is None or item.entry.kind != "f":
        return False
    if not archives.is_archive(tree, item.path, root_fd):
        return False
    classic = action.owner is not None and action.owner.classic
    look = Look(owner=None if classic else look.owner, latest_ns=look.latest_ns)
    outside = RootWriter(root_fd, look)
    fd = _directory(outside, _clean(action.dest))
    try:
        inside = RootWriter(fd, look, implied_owner=(0, 0))
        archives.unpack(tree, item.path, inside, fd)
        outside.wrote(inside.finish(item.entry.mtime_ns))
    finally:
        os.close(fd)
    target.wrote(outside.finish())
    return True
