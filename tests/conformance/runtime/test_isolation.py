"""What the container may see of the machine: namespaces, mounts and their options, devices, masked and
read-only paths.
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime.driver import Runtime, Spec

NAMESPACES = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "mount": "mnt", "cgroup": "cgroup"}


def without(spec: Spec, kind: str) -> Spec:
    spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != kind]
    return spec


def mount(destination: str, fstype: str = "bind", source: str = "none", options: list[str] | None = None) -> Spec:
    return {"destination": destination, "type": fstype, "source": source, "options": options or []}


def mount_line(table: str, destination: str) -> list[str]:
    """Return the words of the last mount on `destination` in a mountinfo table."""
    return [line.split() for line in table.splitlines() if line.split()[4] == destination][-1]


@pytest.mark.parametrize("kind", sorted(NAMESPACES))
def test_a_namespace_is_new_when_listed_and_the_caller_s_when_not(runtime: Runtime, kind: str) -> None:
    link = f"/proc/self/ns/{NAMESPACES[kind]}"
    spec = runtime.spec("readlink", link)
    without(spec, kind)["linux"]["namespaces"].append({"type": kind})
    assert runtime.says(spec).strip() != os.readlink(link)
    if kind in ("mount", "cgroup"):  # no runtime goes without a mount namespace; that of cgroups depends on the caller
        return
    spec = without(spec, kind)
    if kind == "uts":
        del spec["hostname"]
    assert runtime.says(spec).strip() == os.readlink(link)


def test_a_namespace_by_path(runtime: Runtime) -> None:
    first = runtime.start(runtime.spec())
    pid = runtime.state(first)["pid"]
    spec = without(runtime.spec("readlink", "/proc/self/ns/net"), "network")
    spec["linux"]["namespaces"].append({"type": "network", "path": f"/proc/{pid}/ns/net"})
    assert runtime.says(spec).strip() == os.readlink(f"/proc/{pid}/ns/net")


def test_a_pid_namespace_by_path(runtime: Runtime) -> None:
    first = runtime.start(runtime.spec())
    pid = runtime.state(first)["pid"]
    spec = without(runtime.spec("cat", "/proc/1/cmdline"), "pid")
    spec["linux"]["namespaces"].append({"type": "pid", "path": f"/proc/{pid}/ns/pid"})
    assert runtime.says(spec) == "sleep\x001000\x00"


def test_the_process_is_pid_1(runtime: Runtime) -> None:
    assert runtime.shell(runtime.spec(), "echo $$") == "1\n"


def test_host_name(runtime: Runtime) -> None:
    assert runtime.says(runtime.spec(), "uname", "-n") == "conformance\n"


def test_loopback_is_up_and_alone(runtime: Runtime) -> None:
    spec = runtime.spec("sh", "-c", "ls /sys/class/net; cat /sys/class/net/lo/flags")
    spec["mounts"].append(mount("/sys", "sysfs", "sysfs", ["ro", "nosuid", "nodev", "noexec"]))
    names, flags = runtime.says(spec).rsplit("\n", 2)[:2]
    assert "lo" in names.split()
    assert int(flags, 16) & 1


def test_user_namespace(runtime: Runtime) -> None:
    spec = runtime.spec("sh", "-c", "id -u; cat /proc/self/uid_map; stat -c %u /data/file")
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1000}]
    spec["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1000}]
    words = runtime.says(spec).split()
    assert words == ["0", "0", "0", "1000", "0"]


def test_sysctl_of_its_own_namespace(runtime: Runtime) -> None:
    spec = runtime.spec("cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/msgmax")
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "4321"}
    assert runtime.says(spec).split() == ["1", "4321"]


def test_sysctl_of_the_host_is_refused(runtime: Runtime) -> None:
    spec = runtime.spec()
    spec["linux"]["sysctl"] = {"vm.swappiness": "1"}
    assert 'sysctl "vm.swappiness" is not in a separate kernel namespace' in runtime.create(spec, status=1)


# mounts


@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        (["ro", "nosuid", "nodev", "noexec", "noatime"], {"ro", "nosuid", "nodev", "noexec", "noatime"}, {"rw"}),
        (["rw", "suid", "dev", "exec", "strictatime"], {"rw"}, {"nosuid", "nodev", "noexec", "relatime", "noatime"}),
        (["nodiratime", "relatime"], {"nodiratime", "relatime"}, {"noatime"}),
        (["nosuid", "suid", "ro", "rw"], {"rw"}, {"nosuid", "ro"}),
        ([], {"rw"}, {"nosuid"}),
    ],
)
def test_mount_options(runtime: Runtime, options: list[str], present: set[str], absent: set[str]) -> None:
    spec = runtime.spec("cat", "/proc/self/mountinfo")
    spec["mounts"].append(mount("/mnt", "tmpfs", "tmpfs", [*options, "size=64k"]))
    words = mount_line(runtime.says(spec), "/mnt")
    flags = set(words[5].split(","))
    assert present <= flags
    assert not absent & flags
    assert "size=64k" in words[-1]


@pytest.mark.parametrize(
    ("option", "shown"),
    [("shared", "shared:"), ("private", ""), ("slave", ""), ("unbindable", "unbindable"), ("rprivate", "")],
)
def test_propagation_of_a_mount(runtime: Runtime, option: str, shown: str) -> None:
    spec = runtime.spec("cat", "/proc/self/mountinfo")
    spec["mounts"].append(mount("/mnt", "tmpfs", "tmpfs", [option]))
    words = mount_line(runtime.says(spec), "/mnt")
    optional = words[6 : words.index("-")]
    assert any(word.startswith(shown) for word in optional) if shown else not optional


def shared_directory(runtime: Runtime) -> Path:
    path = runtime.directory / "shared"
    path.mkdir()
    (path / "inside").write_text("bound\n")
    return path


def test_bind(runtime: Runtime) -> None:
    shared = shared_directory(runtime)
    spec = runtime.spec()
    spec["mounts"].append(mount("/mnt", source=str(shared), options=["bind"]))
    assert runtime.shell(spec, "cat /mnt/inside; echo back > /mnt/new") == "bound\n"
    assert (shared / "new").read_text() == "back\n"


def test_bind_read_only(runtime: Runtime) -> None:
    spec = runtime.spec()
    spec["mounts"].append(mount("/mnt", source=str(shared_directory(runtime)), options=["rbind", "ro", "nosuid"]))
    assert runtime.shell(spec, "cat /mnt/inside; touch /mnt/x 2>/dev/null || echo refused") == "bound\nrefused\n"


def test_bind_of_a_file(runtime: Runtime) -> None:
    spec = runtime.spec()
    spec["mounts"].append(
        mount("/etc/passwd", source=str(shared_directory(runtime) / "inside"), options=["bind", "ro"])
    )
    assert runtime.says(spec, "cat", "/etc/passwd") == "bound\n"


def test_recursive_bind_brings_the_mounts_below(runtime: Runtime) -> None:
    shared = shared_directory(runtime)
    (shared / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(shared / "below")], check=True)
    try:
        (shared / "below/deep").write_text("deep\n")
        spec = runtime.spec("sh", "-c", "cat /mnt/below/deep; touch /mnt/below/x || true")
        spec["mounts"].append(mount("/mnt", source=str(shared), options=["rbind", "rro"]))
        assert runtime.says(spec) == "deep\n"
        assert not (shared / "below/x").exists()
    finally:
        subprocess.run(["umount", str(shared / "below")], check=True)


def test_mounts_are_made_in_order(runtime: Runtime) -> None:
    spec = runtime.spec("cat", "/tmp/a/inside")
    spec["mounts"].append(mount("/tmp/a", source=str(shared_directory(runtime)), options=["bind"]))
    assert runtime.says(spec) == "bound\n"


def test_a_link_as_target_stays_inside_the_root(runtime: Runtime) -> None:
    """mnt/escape points at /etc: the container's, never the host's."""
    spec = runtime.spec("sh", "-c", "cat /etc/inside; ls /etc")
    spec["mounts"].append(mount("/mnt/escape", source=str(shared_directory(runtime)), options=["bind"]))
    assert runtime.says(spec) == "bound\ninside\n"
    assert not Path("/etc/inside").exists()


def test_tmpcopyup(runtime: Runtime) -> None:
    spec = runtime.spec("sh", "-c", "cat /data/file; echo new > /data/file; cat /data/file")
    spec["mounts"].append(mount("/data", "tmpfs", "tmpfs", ["rw", "tmpcopyup"]))
    assert runtime.says(spec) == "from the root\nnew\n"
    assert (runtime.rootfs / "data/file").read_text() == "from the root\n"


def test_nothing_is_left_mounted_or_visible_on_the_host(runtime: Runtime) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    runtime.start(runtime.spec())
    assert Path("/proc/self/mountinfo").read_text() == before


@pytest.mark.parametrize("readonly", [True, False])
def test_read_only_root(runtime: Runtime, readonly: bool) -> None:
    spec = runtime.spec("sh", "-c", "touch /data/written 2>/dev/null && echo written || echo refused")
    spec["root"]["readonly"] = readonly
    assert runtime.says(spec) == ("refused\n" if readonly else "written\n")
    (runtime.rootfs / "data/written").unlink(missing_ok=True)


def test_a_source_that_is_missing_is_named(runtime: Runtime) -> None:
    spec = runtime.spec()
    spec["mounts"].append(mount("/mnt", source="/does/not/exist", options=["bind"]))
    message = runtime.create(spec, status=1)
    assert "/does/not/exist" in message
    assert "no such file or directory" in message


# devices and paths

DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}


def test_default_devices_and_links(runtime: Runtime) -> None:
    script = (
        "for d in null zero full random urandom tty; do stat -c '%n %t %T %a' /dev/$d; done; readlink /dev/fd; "
        "readlink /dev/ptmx"
    )
    *nodes, fd, ptmx = runtime.shell(runtime.spec(), script).splitlines()
    found = {
        name.removeprefix("/dev/"): (int(major, 16), int(minor, 16), mode)
        for name, major, minor, mode in map(str.split, nodes)
    }
    assert found == {name: (*number, "666") for name, number in DEVICES.items()}
    assert (fd, ptmx) == ("/proc/self/fd", "pts/ptmx")


def test_devices_of_the_spec(runtime: Runtime) -> None:
    spec = runtime.spec(
        "sh", "-c", "stat -c '%F %t %T %a %u %g' /dev/own; head -c 3 /dev/own | wc -c; head -c 1 /dev/locked"
    )
    device: dict[str, Any] = {"type": "c", "major": 1, "minor": 5, "fileMode": 0o644, "uid": 3, "gid": 4}
    spec["linux"]["devices"] = [
        {"path": "/dev/own", **device},
        {"path": "/dev/locked", "type": "c", "major": 10, "minor": 229},
    ]
    spec["linux"]["resources"]["devices"].append({"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rw"})
    done = runtime.run(spec)
    assert done.stdout.splitlines() == ["character special file 1 5 644 3 4", "3"]
    assert "Operation not permitted" in done.stderr or "No such device" in done.stderr


def test_device_rules_hold(runtime: Runtime) -> None:
    """mknod is allowed by the default rules; opening the node is not."""
    spec = runtime.spec("sh", "-c", "head -c 1 /dev/kmsg")
    spec["linux"]["devices"] = [{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}]
    done = runtime.run(spec)
    assert done.returncode != 0
    assert "Operation not permitted" in done.stderr


def test_masked_paths(runtime: Runtime) -> None:
    spec = runtime.spec("sh", "-c", "cat /etc/secret; ls /data; cat /proc/kcore | wc -c")
    spec["linux"]["maskedPaths"] = ["/etc/secret", "/data", "/proc/kcore", "/does/not/exist"]
    assert runtime.says(spec) == "0\n"


def test_read_only_paths(runtime: Runtime) -> None:
    spec = runtime.spec(
        "sh", "-c", "touch /tmp/a 2>/dev/null && echo yes || echo no; echo 1 > /proc/sys/kernel/msgmax || echo refused"
    )
    spec["linux"]["readonlyPaths"] = ["/tmp", "/proc/sys", "/does/not/exist"]
    assert runtime.says(spec) == "no\nrefused\n"


def test_the_console_is_the_terminal_s(runtime: Runtime) -> None:
    spec = runtime.spec("sh", "-c", "test -e /dev/console && echo there || echo none")
    assert runtime.says(spec) in ("none\n", "there\n")


def test_the_root_is_the_top_of_its_tree(runtime: Runtime) -> None:
    """Nothing of the host's tree is reachable, and the root is a mount of its own."""
    table = runtime.says(runtime.spec("cat", "/proc/self/mountinfo"))
    assert mount_line(table, "/")[3].endswith(str(runtime.rootfs)) or runtime.rootfs.name in mount_line(table, "/")[3]
    assert str(runtime.directory) not in "\n".join(line.split(" - ")[0].split()[4] for line in table.splitlines())


def test_files_of_the_host_keep_their_mode() -> None:
    """Masking binds /dev/null and never changes it."""
    assert stat.S_IMODE(os.stat("/dev/null").st_mode) == 0o666
