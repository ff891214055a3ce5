"""Device nodes of a container and the device rules of its cgroup.

Source: OCI runtime-spec `linux.devices`; devices(7) numbers; Docker's default list.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from sampan.errors import Internal, words
from sampan.spec.engine_api.container import HostConfig

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


def of_container(host: HostConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (nodes to make, cgroup rules). Raises: Internal, as Docker answers 500 at start."""
    if host.device_requests:
        first = host.device_requests[0]
        words = " ".join("[" + " ".join(group) + "]" for group in first.capabilities or [])
        raise Internal(f'could not select device driver "{first.driver}" with capabilities: [{words}]')
    rules = list(DEFAULT_RULES)
    nodes: list[dict[str, Any]] = []
    if host.privileged:
        nodes += [_node(path, path) for path in sorted(_host_devices("/dev"))]
        return nodes, [_rule(True, "rwm")]
    for mapping in host.devices or []:
        target = mapping.path_in_container or mapping.path_on_host
        for node in _mapped(mapping.path_on_host, target):
            nodes.append(node)
            access = "".join(a for a in mapping.cgroup_permissions or "rwm" if a in "rwm")
            if access:
                rules.append(_rule(True, access, node["type"], node["major"], node["minor"]))
    for text in host.device_cgroup_rules or []:
        rules.append(parse_rule(text))
    return nodes, rules


def parse_rule(text: str) -> dict[str, Any]:
    """Parse `c 1:3 rw`; `*` is every number."""
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
            for path in sorted(_host_devices(real)):
                yield _node(path, target + path.removeprefix(real))
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
                    yield from _host_devices(entry.path)
            elif entry.name != "console" and not entry.is_symlink():
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                    yield entry.path
