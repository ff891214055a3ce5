"""Device nodes of a container and the device rules of its cgroup: what of them only the host can tell.

`look` is the one function of the engine that opens nothing but looks at paths which a request names on the host; it may
wait for a file system that does not answer, so it does not belong on the event loop.

Source: OCI runtime-spec `linux.devices`; devices(7) numbers; Docker's default list.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sampan.engine.tasks.options import ResourceLimits, TaskOptions
from sampan.errors import Internal, words

_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")
# Directories under /dev that belong to the container's own mounts, or that hold no devices.
_SKIPPED = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})


def _rule(
    allow: bool, access: str, type_: str = "", major: int | None = None, minor: int | None = None
) -> dict[str, Any]:
    rule: dict[str, Any] = {"allow": allow}
    if type_:
        rule |= {"type": type_, "major": -1 if major is None else major, "minor": -1 if minor is None else minor}
    rule["access"] = access
    return rule


DEFAULT_RULES: list[dict[str, Any]] = [
    _rule(False, "rwm"),
    *(_rule(True, "rwm", "c", major, minor) for major, minor in ((1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1))),
    _rule(False, "rwm", "c", 10, 229),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDevices:
    """What was found on the host.

    rules: of the device cgroup. nodes: to be made in /dev. numbers: {path: (major, minor)} of block devices.
    """

    rules: tuple[dict[str, Any], ...]
    nodes: tuple[dict[str, Any], ...] = ()
    numbers: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def waits(options: TaskOptions) -> bool:
    """Tell whether `look` will look at the host's files at all."""
    return bool(options.privileged or options.devices or options.limits.block_devices())


def look(options: TaskOptions) -> HostDevices:
    """Find the devices that a task asks for. Raises: Internal, as Docker answers 500 at start."""
    found = numbers(options.limits)
    if options.privileged:
        nodes = tuple(_node(path, path) for path in sorted(_host_devices("/dev")))
        return HostDevices(rules=(_rule(True, "rwm"),), nodes=nodes, numbers=found)
    made: list[dict[str, Any]] = []
    rules = list(DEFAULT_RULES)
    for device in options.devices:
        for node in _mapped(device.path_on_host, device.path_in_container or device.path_on_host):
            made.append(node)
            access = "".join(a for a in device.access or "rwm" if a in "rwm")
            if access:
                rules.append(_rule(True, access, node["type"], node["major"], node["minor"]))
    rules += [parse_rule(text) for text in options.device_rules]
    return HostDevices(rules=tuple(rules), nodes=tuple(made), numbers=found)


def numbers(limits: ResourceLimits) -> dict[str, tuple[int, int]]:
    """Look up the numbers of the block devices that limits name. Raises: Internal."""
    return {path: _numbers(path) for path in limits.block_devices()}


def _numbers(path: str) -> tuple[int, int]:
    try:
        device = os.stat(path).st_rdev
    except OSError as e:
        raise Internal(f"stat {path}: {words(e)}") from e
    return os.major(device), os.minor(device)


def parse_rule(text: str) -> dict[str, Any]:
    """Parse `c 1:3 rw`; `*` is every number. Raises: Internal."""
    found = _RULE.fullmatch(text)
    if found is None:
        raise Internal(f"invalid device cgroup rule format: '{text}'")
    major = None if found[2] == "*" else int(found[2])
    minor = None if found[3] == "*" else int(found[3])
    return _rule(True, found[4], found[1], major, minor)


def _mapped(source: str, target: str) -> Iterator[dict[str, Any]]:
    try:
        real = os.path.realpath(source) if os.path.islink(source) else source
        mode = os.stat(real).st_mode
        if stat.S_ISDIR(mode):
            inside = sorted(_host_devices(real))
            for path in inside:
                with contextlib.suppress(FileNotFoundError):  # gone since
                    yield _node(path, target + path.removeprefix(real))
            if inside:
                return
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            yield _node(real, target)
            return
    except OSError as e:
        raise Internal(f'error gathering device information while adding custom device "{source}": {words(e)}') from e
    raise Internal(f'error gathering device information while adding custom device "{source}": not a device node')


def _node(path: str, target: str) -> dict[str, Any]:
    st = os.stat(path, follow_symlinks=False)
    return {
        "path": target,
        "type": "b" if stat.S_ISBLK(st.st_mode) else "c",
        "major": os.major(st.st_rdev),
        "minor": os.minor(st.st_rdev),
        "fileMode": stat.S_IMODE(st.st_mode),
        "uid": st.st_uid,
        "gid": st.st_gid,
    }


def _host_devices(directory: str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _SKIPPED:
                    with contextlib.suppress(FileNotFoundError):  # gone since
                        yield from _host_devices(entry.path)
            elif entry.name != "console" and not entry.is_symlink():
                try:
                    mode = entry.stat(follow_symlinks=False).st_mode
                except FileNotFoundError:
                    continue
                if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                    yield entry.path
