"""Every input of a step, and whether its result depends on it: the table that cache keys are made by. Pure.

One row for each field of every value that a step's operation consists of. A row says for each of the two builders
whether the field is in the key, and why. A field without a row is an error (`of_field`), so that nobody adds an input
and forgets the cache.

The two builders disagree in what a RUN's key holds, as Docker's do: its classic builder compares a step's command,
environment, directory and user, and nothing of how its container is made.

Source: Docker Engine 28.5.2, asked by building twice with one field changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sampan.engine.builder.ops import Copy, FileOp, Limits, Mkdir, Mkfile, Owner, RunMount, RunOp
from sampan.engine.platforms import Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInput:
    """One field. but: kinds of a mount for which it is not in the key. because: why it is, or is not."""

    buildkit: bool
    classic: bool
    because: str
    but: frozenset[str] = frozenset()


def _in(because: str, *, but: tuple[str, ...] = ()) -> KeyInput:
    return KeyInput(buildkit=True, classic=True, because=because, but=frozenset(but))


def _out(because: str) -> KeyInput:
    return KeyInput(buildkit=False, classic=False, because=because)


def _buildkit(because: str) -> KeyInput:
    """In BuildKit's keys only."""
    return KeyInput(buildkit=True, classic=False, because=because)


_SHOWN = "how a step is shown and where it stands decides nothing"
_SPEED = "decides whether and how fast a command ends, not what a correct one writes"

RUN: Mapping[str, KeyInput] = {
    "label": _out(_SHOWN),
    "no_cache": _out("says whether to search for the key"),
    "base": _in("the command reads the files; by chain id"),
    "args": _in("the command"),
    "env": _in("the command reads it"),
    "cwd": _in("the command starts there"),
    "user": _in("who owns what is written, and what may be read"),
    "mounts": _in("what the command finds, by the rows of RunMount"),
    "network": _buildkit("a command finds out; classic: part of the container, as in Docker"),
    "security": _in("decides what the command may do"),
    "hostname": _buildkit("the command reads it; classic: every step has another one"),
    "extra_hosts": _buildkit("the command reads /etc/hosts; classic: part of the container, as in Docker"),
    "epoch_s": _in("written into the layer"),
    "limits": _buildkit("by the rows of Limits; classic: part of the container, as in Docker"),
    "platform": _in("the command reads it"),
    "secret_env": _in("the names are part of the operation; the values are not here"),
    "proxy_env": _out("how the network is reached, not what is there; may hold passwords"),
}
LIMITS: Mapping[str, KeyInput] = {
    "memory_bytes": _out(_SPEED),
    "memory_swap_bytes": _out(_SPEED),
    "cpu_shares": _out(_SPEED),
    "cpu_period_us": _out(_SPEED),
    "cpu_quota_us": _out(_SPEED),
    "cpuset_cpus": _out(_SPEED),
    "cpuset_mems": _out(_SPEED),
    "shm_size_bytes": _buildkit("`df /dev/shm` shows it, and a program may need the room"),
    "ulimits": _buildkit("`ulimit -n` shows them"),
    "cgroup_parent": _buildkit("/proc/self/cgroup shows it"),
}
MOUNT: Mapping[str, KeyInput] = {
    "kind": _in("what is mounted"),
    "target": _in("where the command finds it"),
    "source": _in("the content, by checksum or chain id"),
    "path": _in("which part of the source"),
    "writable": _in("the command may fail or not"),
    "read_only": _in("the command may fail or not"),
    "id": _in("which secret or agent; of a cache it only names what is different each time", but=("cache",)),
    "sharing": _out("who waits for whom"),
    "required": _in("the command is run or not"),
    "env": _in("the variable that the command reads"),
    "mode": _in("the command sees it"),
    "uid": _in("the command sees it"),
    "gid": _in("the command sees it"),
    "size_bytes": _in("`df` shows it"),
}
FILES: Mapping[str, KeyInput] = {
    "label": _out(_SHOWN),
    "no_cache": _out("says whether to search for the key"),
    "base": _in("by chain id: names of owners and links in the destination are looked up there; not with `link`"),
    "actions": _in("by the rows of Copy, Mkdir and Mkfile"),
    "link": _in("another layer"),
    "epoch_s": _in("written into the layer"),
}
COPY: Mapping[str, KeyInput] = {
    "source": _out("the checksum of what is copied stands for it"),
    "patterns": _out("what they select is in the checksum, under the names that it gets"),
    "dest": _in("where the files go"),
    "owner": _in("who they belong to"),
    "chmod": _in("their mode"),
    "unpack": _in("another layer"),
    "parents": _in("another layer"),
    "exclude": _out("what it leaves is in the checksum"),
    "contents_only": _out("the names in the checksum say it"),
    "required": _out("says whether there is a step at all"),
    "replaces": _in("what is in the way is an error or not"),
    "follow": _in("what a link comes to"),
}
MKDIR: Mapping[str, KeyInput] = {"path": _in("the layer"), "mode": _in("the layer"), "owner": _in("the layer")}
MKFILE: Mapping[str, KeyInput] = {
    "path": _in("the layer"),
    "name": _in("the layer"),
    "data": _in("the layer"),
    "chmod": _in("the layer"),
    "owner": _in("the layer"),
}
OWNER: Mapping[str, KeyInput] = {
    "user": _in("the layer"),
    "group": _in("the layer"),
    "classic": _in("the two builders read names differently"),
}
PLATFORM: Mapping[str, KeyInput] = {
    "os": _in("the command reads it"),
    "architecture": _in("the command reads it"),
    "variant": _in("the command reads it"),
}

INPUTS: Mapping[type, Mapping[str, KeyInput]] = {
    RunOp: RUN,
    Limits: LIMITS,
    RunMount: MOUNT,
    FileOp: FILES,
    Copy: COPY,
    Mkdir: MKDIR,
    Mkfile: MKFILE,
    Owner: OWNER,
    Platform: PLATFORM,
}


def is_in_key(value: Any, field: str, *, classic: bool) -> bool:
    """Return whether a field of an operation, or of a part of one, is in the step's key.

    Raises: KeyError for a field that the table does not have.
    """
    row = INPUTS[type(value)][field]
    if isinstance(value, RunMount) and value.kind in row.but:
        return False
    return row.classic if classic else row.buildkit
