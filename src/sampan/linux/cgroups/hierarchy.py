"""Which cgroup hierarchies this machine has, and where they are mounted.

Read once a process from /proc/self/mountinfo: the zygote pays for it, the shims that it forks do not.

    legacy    one v1 mount per controller (or group of co-mounted controllers), no v2
    hybrid    the same, and a v2 tree beside it that holds no controllers but knows cgroup.kill and CLONE_INTO_CGROUP
    unified   v2 alone

Source: cgroups(7); Documentation/admin-guide/cgroup-v2.rst; proc_pid_mountinfo(5).
"""

from __future__ import annotations

from typing import Literal

Mode = Literal["legacy", "hybrid", "unified"]

#: v1 mount options that are no controllers. Named hierarchies are kept, as "name=systemd".
_FLAGS = frozenset({"rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods", "none"})


class CgroupLayout:
    """The mounts of one machine.

    `mounts` maps a v1 controller to its mount point, in mount order; co-mounted controllers share one. `v2_root` is the
    mount point of the v2 tree or "". `v2_controllers` are those the v2 root offers.
    """

    __slots__ = ("mode", "mounts", "roots", "v2_controllers", "v2_root")

    def __init__(self, *, mounts: dict[str, str], v2_root: str, v2_controllers: frozenset[str]) -> None:
        self.mounts = mounts
        self.roots = tuple(dict.fromkeys(mounts.values()))
        self.v2_root = v2_root
        self.v2_controllers = v2_controllers
        self.mode: Mode = "unified" if not mounts else "hybrid" if v2_root else "legacy"

    def controllers(self) -> frozenset[str]:
        """Return the resource controllers that hold limits here, without named hierarchies; of one kind, never
        mixed.
        """
        if self.mode == "unified":
            return self.v2_controllers | {"devices", "freezer"}  # both are part of every v2 cgroup
        return frozenset(name for name in self.mounts if not name.startswith("name="))


def parse_mountinfo(text: str) -> tuple[dict[str, str], str]:
    """Find the cgroup mounts: (v1 controller → mount point, v2 mount point or ""). The first mount of each wins."""
    v1: dict[str, str] = {}
    v2 = ""
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        if not separator or not right.startswith("cgroup"):
            continue
        fstype, _, options = right.split(" ", 2)
        mount_point = _unescape(left.split(" ")[4])
        if fstype == "cgroup2":
            v2 = v2 or mount_point
        elif fstype == "cgroup":
            for option in options.split(","):
                if option not in _FLAGS and not option.startswith("release_agent="):
                    v1.setdefault(option, mount_point)
    return v1, v2


def _unescape(path: str) -> str:
    """Undo mountinfo's octal escapes of space, tab, newline and backslash."""
    if "\\" not in path:
        return path
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")


def probe() -> CgroupLayout:
    """Read the machine's layout.

    Raises:
        OSError: ENODEV when no cgroup file system is mounted.
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts, v2_root = parse_mountinfo(file.read())
    if not mounts and not v2_root:
        import errno

        raise OSError(errno.ENODEV, "no cgroup mount found in mountinfo", "/sys/fs/cgroup")
    v2_controllers: frozenset[str] = frozenset()
    if v2_root:
        with open(v2_root + "/cgroup.controllers", encoding="ascii") as file:
            v2_controllers = frozenset(file.read().split())
    return CgroupLayout(mounts=mounts, v2_root=v2_root, v2_controllers=v2_controllers)


_layout: CgroupLayout | None = None


def layout() -> CgroupLayout:
    """Return the machine's layout, probed at the first call and kept for the life of the process and its forks."""
    global _layout
    if _layout is None:
        _layout = probe()
    return _layout


def own_paths() -> dict[str, str]:
    """Return the caller's own cgroup per v1 controller, and under "" the v2 one; paths as /proc/self/cgroup
    shows them.
    """
    paths: dict[str, str] = {}
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, names, path = line.rstrip("\n").split(":", 2)
            for name in names.split(","):
                paths[name] = path
    return paths
