"""Where a copy lands: docker cp's rules for files, directories, `/.` and names that do not exist yet. Pure.

A source becomes an archive whose entries begin with its base name; the destination decides into which directory that
is extracted and under which name:

    destination            source is a file                 source is a directory
    existing directory     into it                          into it (its contents, for a source that ends in /.)
    existing file          in its place                     refused
    missing, ends in /     refused                          created as a copy of it
    missing                created under that name          created under that name

Source: docker(1) cp, compared with docker 28.5.
"""

from __future__ import annotations

import os


class CopyRefused(Exception):
    """The rules say no; the message is docker's."""


class CopySource:
    """What is copied: its path, whether it is a directory, and the name its entries are to have instead."""

    def __init__(self, path: str, *, is_dir: bool, rebase: str = "") -> None:
        self.path = path
        self.is_dir = is_dir
        self.rebase = rebase


class Destination:
    """Where to: its path, and what is there."""

    def __init__(self, path: str, *, exists: bool = False, is_dir: bool = False) -> None:
        self.path = path
        self.exists = exists
        self.is_dir = is_dir


def split_argument(text: str) -> tuple[str, str]:
    """Split `container:path` → (container, path); a local path has no container. `./a:b` and `/a:b` are local."""
    if os.path.isabs(text):
        return "", text
    container, colon, path = text.partition(":")
    if not colon or container.startswith("."):
        return "", text
    return container, path


def clean(path: str) -> str:
    """Normalise a path, but keep what the end of a path says: a trailing slash or `/.`."""
    out = os.path.normpath(path)
    if _is_dotted(path):
        return out + "/." if not out.endswith("/") else out + "."
    if path.endswith("/") and not out.endswith("/"):
        return out + "/"
    return out


def split(path: str) -> tuple[str, str]:
    """Return (directory, last element); the last element of `a/.` is `.`."""
    if "/" in path and _is_dotted(path):
        return os.path.normpath(path), "."
    whole = os.path.normpath(path)
    return os.path.dirname(whole) or ".", os.path.basename(whole) or "/"


def asserts_directory(path: str) -> bool:
    """Whether a path can only mean a directory; "" means the current one."""
    return path.endswith("/") or _is_dotted(path)


def _is_dotted(path: str) -> bool:
    """Whether the last element is `.`, whatever slashes follow."""
    return os.path.basename(path.rstrip("/")) == "." or not path


def place(source: CopySource, destination: Destination) -> tuple[str, str, str]:
    """Return (directory to extract in, name the entries have, name they are to get). Raises: CopyRefused."""
    name = source.rebase or split(source.path)[1]
    if destination.exists and destination.is_dir:
        return destination.path, "", ""
    directory, base = split(destination.path)
    if destination.exists and source.is_dir:
        raise CopyRefused("cannot copy directory")
    if not destination.exists and not source.is_dir and asserts_directory(destination.path):
        raise CopyRefused("no such directory")
    return directory, name, base


def renamed(entry: str, old: str, new: str) -> str:
    """Return an entry's name after the change of its first element."""
    if not old or old == new:
        return entry
    if old == "/":
        return f"{new}/{entry.lstrip('/')}"
    if old == ".":
        rest = entry.removeprefix("./") if entry != "." else ""
        return f"{new}/{rest}" if rest else new
    if entry == old or entry.startswith(old + "/"):
        return new + entry[len(old) :]
    return entry
