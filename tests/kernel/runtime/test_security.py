"""What attackers did to container runtimes: each row of the threat table that concerns the runtime, as a named test."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sampan.linux.saferoot import mkdirs, open_in_proc, open_in_root, open_or_make
from sampan.linux.syscalls import O_PATH
from sampan.runtime import plan as planning
from sampan.runtime.container import InvalidSpec, RuntimeFailure
from sampan.runtime.plan import Device
from sampan.runtime.steps import devices
from tests.kernel.runtime.harness import Bench, Spec, default_spec, reap


def test_cve_2019_5736_init_and_exec_are_not_dumpable_before_they_are_visible(bench: Bench) -> None:
    """A process of the container must not open our executable through /proc/<pid>/exe."""
    made = bench.create(default_spec(["sleep", "100"]))
    status = Path(f"/proc/{made.pid}").stat()
    assert (status.st_uid, status.st_gid) == (0, 0)
    probe = subprocess.run(
        [sys.executable, "-c", f"import os; os.setgid(9); os.setuid(9); os.readlink('/proc/{made.pid}/exe')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PermissionError" in probe.stderr
    made.start()


@pytest.mark.parametrize("args", [["/proc/self/exe"], ["/link"], ["link"]])
def test_cve_2019_5736_the_runtime_itself_is_never_executed_inside(bench: Bench, args: list[str]) -> None:
    spec = default_spec(args, env=["PATH=/"])
    with pytest.raises(RuntimeFailure) as caught:
        bench.create(spec, files={"link": "-> /proc/self/exe"})
    assert caught.value.step == "exec"


def test_cve_2024_21626_no_descriptor_leaks_into_the_process(bench: Bench) -> None:
    leaks = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(5)]
    os.set_inheritable(leaks[0], True)
    try:
        spec = default_spec(["sh", "-c", "ls /proc/self/fd"])
        assert bench.run(spec).out.split() == ["0", "1", "2", "3"]  # 3 is ls's own
        made = bench.create(default_spec(["sleep", "100"]))
        made.start()
        assert bench.exec(made, ["ls", "/proc/self/fd"]).out.split() == ["0", "1", "2", "3"]
    finally:
        for fd in leaks:
            os.close(fd)


@pytest.mark.parametrize("tail", ["", "/../../../.."])
@pytest.mark.parametrize("number", range(3, 12))
def test_cve_2024_21626_cwd_through_a_descriptor(bench: Bench, number: int, tail: str) -> None:
    leak = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(RuntimeFailure) as caught:
            bench.run(default_spec(["pwd"], cwd=f"/proc/self/fd/{number}{tail}"))
        assert caught.value.step == "cwd"
    finally:
        os.close(leak)


def test_cve_2024_21626_exec_cwd_through_a_descriptor(bench: Bench) -> None:
    made = bench.create(default_spec(["sleep", "100"]))
    made.start()
    for number in range(3, 12):
        with pytest.raises(RuntimeFailure) as caught:
            bench.exec(made, ["pwd"], cwd=f"/proc/self/fd/{number}")
        assert caught.value.step == "cwd"


def test_cve_2025_31133_a_fake_dev_null_masks_nothing(bench: Bench) -> None:
    """What covers a masked file is the null device, proven by its numbers; a link in its place is refused."""
    spec = default_spec(["sh", "-c", "cat /proc/keys"])
    assert bench.run(spec).out == ""
    spec["mounts"] = [mount for mount in spec["mounts"] if not mount["destination"].startswith("/dev")]
    with pytest.raises(RuntimeFailure, match="device null: not the expected device 1:3"):
        bench.run(spec, files={"dev/null": "-> /etc/passwd"})


def test_cve_2025_31133_a_host_node_is_proven_before_it_is_bound(tmp_path: Path) -> None:
    device = Device(str(tmp_path / "null"), 0o020000, os.makedev(1, 3), 0o666, 0, 0)
    (tmp_path / "null").symlink_to("/dev/zero")
    with pytest.raises(RuntimeFailure, match="not the expected device 1:3"):
        devices.clone_host_node(device)


def test_cve_2025_52565_dev_console_that_is_a_link_stays_inside(bench: Bench, tmp_path: Path) -> None:
    target = tmp_path / "host"
    target.write_text("untouched")
    spec = default_spec(["sh", "-c", "ls -l /dev/console"], terminal=True)
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/dev"]
    made = bench.create(spec, files={"dev/console": f"-> {target}"})
    made.start()
    assert reap(made) == 0
    assert target.read_text() == "untouched"
    assert (bench.upper / str(target).lstrip("/")).exists()  # the link was followed inside the root


@pytest.mark.parametrize("mounted", [True, False], ids=["with a mount on it", "without"])
@pytest.mark.parametrize("up", ["", "../../../.."])
def test_cve_2026_41579_dev_that_is_a_link_stays_inside(bench: Bench, tmp_path: Path, up: str, mounted: bool) -> None:
    """Nodes, devpts and binds below /dev: refused, or made inside the root; the host gets nothing."""
    host = tmp_path / "host"
    host.mkdir()
    spec = default_spec(["ls", "-l", "/dev/"], terminal=False)
    if not mounted:
        spec["mounts"] = [mount for mount in spec["mounts"] if not mount["destination"].startswith("/dev")]
    spec["mounts"].append({"type": "bind", "source": "/etc/hostname", "destination": "/dev/bound", "options": ["bind"]})
    try:
        done = bench.run(spec, files={"dev": f"-> {up}{host}"})
    except RuntimeFailure:
        pass
    else:
        assert "null" in done.out and "bound" in done.out
        assert (bench.upper / str(host).lstrip("/")).is_dir(), "the link was followed inside the root"
    assert list(host.iterdir()) == []


def test_cve_2025_52565_a_terminal_comes_only_from_devpts(bench: Bench) -> None:
    spec = default_spec(["true"], terminal=True)
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/dev/pts"]
    with pytest.raises(RuntimeFailure) as caught:
        bench.create(spec)
    assert caught.value.step == "console"


def test_cve_2025_52881_a_file_system_over_proc_sys_gets_nothing(bench: Bench) -> None:
    """sysctls go to procfs across no mount: one laid over /proc/sys/… makes the write fail, it does not receive it."""
    proc = os.open("/proc", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    other = os.open("/dev", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with pytest.raises(OSError, match="not a proc file system"):
            open_in_proc(other, "null", os.O_WRONLY)
        with pytest.raises(OSError) as caught:
            open_in_proc(proc, "self/status", os.O_RDONLY)  # a symlink
        assert caught.value.errno == errno.ELOOP
        with pytest.raises(OSError) as caught:
            open_in_proc(proc, "../etc/passwd", os.O_RDONLY)
        assert caught.value.errno == errno.EXDEV
    finally:
        os.close(proc)
        os.close(other)


@pytest.mark.parametrize("destination", ["/proc", "/proc/self", "/proc/sys/kernel", "/proc/../proc/self/attr"])
def test_cve_2019_16884_nothing_is_mounted_over_proc(bench: Bench, tmp_path: Path, destination: str) -> None:
    spec = default_spec(["true"])
    spec["mounts"].append(
        {"type": "bind", "source": str(tmp_path), "destination": destination, "options": ["bind"]},
    )
    with pytest.raises(RuntimeFailure):
        bench.create(spec)


def test_cve_2019_16884_not_even_through_a_symlink(bench: Bench, tmp_path: Path) -> None:
    spec = default_spec(["true"])
    spec["mounts"].append(
        {"type": "bind", "source": str(tmp_path), "destination": "/innocent", "options": ["bind"]},
    )
    with pytest.raises(RuntimeFailure, match="cannot be mounted because it is inside /proc"):
        bench.create(spec, files={"innocent": "-> /proc/self"})


def test_what_lxcfs_provides_may_be_mounted_over_proc(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "uptime").write_text("mine")
    spec = default_spec(["cat", "/proc/uptime"])
    spec["mounts"].append(
        {"type": "bind", "source": str(tmp_path / "uptime"), "destination": "/proc/uptime", "options": ["bind"]},
    )
    assert bench.run(spec).out == "mine"


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_cve_2019_19921_proc_and_sys_as_symlinks_are_refused(bench: Bench, lower: Path, name: str) -> None:
    bundle, rootfs = bench.bundle()
    hidden = Path(bundle) / "hidden"
    hidden.mkdir()
    subprocess.run(["mknod", str(hidden / name), "c", "0", "0"], check=True)  # a whiteout of the lower's directory
    link = Path(bundle) / "link"
    link.mkdir()
    (link / name).symlink_to("/etc")
    rootfs[0]["options"][0] = f"lowerdir={link}:{hidden}:{lower}"
    with pytest.raises(RuntimeFailure, match=f"filesystem must be mounted on ordinary directory: /{name}"):
        bench.create(default_spec(["true"]), rootfs=rootfs)


def test_cve_2021_30465_a_mount_target_that_is_a_symlink_stays_inside(bench: Bench, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    spec = default_spec(["sh", "-c", "ls /"])
    spec["mounts"].append({"type": "tmpfs", "source": "t", "destination": "/evil/x", "options": []})
    bench.run(spec, files={"evil": f"-> ../../../../../..{outside}"})
    assert list(outside.iterdir()) == []


def test_cve_2021_30465_a_magic_link_as_target_is_refused(bench: Bench) -> None:
    spec = default_spec(["true"])
    spec["mounts"].append({"type": "tmpfs", "source": "t", "destination": "/evil", "options": []})
    with pytest.raises(RuntimeFailure, match="too many levels of symbolic links"):
        bench.create(spec, files={"evil": "-> /proc/self/cwd"})


def test_cve_2019_14271_nothing_is_imported_after_the_clone(bench: Bench) -> None:
    """Modules of the child are those of the parent: an image with Python files of its own changes nothing."""
    probe = (
        "import sys, os\n"
        "from sampan.runtime import container, init\n"
        "from sampan.runtime.steps import process as who\n"
        "before = set(sys.modules)\n"
        "def execute(program, plan):\n"
        "    os.write(2, ' '.join(sorted(set(sys.modules) - before)).encode() + b'|')\n"
        "    os._exit(0)\n"
        "who.execute = execute\n"
        "import json\n"
        "before |= set(sys.modules)\n"
        "a = json.load(sys.stdin)\n"
        "from sampan.linux import seccomp\n"
        "before |= set(sys.modules)\n"
        "made = container.create(a['spec'], id='x', bundle=a['bundle'], rootfs=a['rootfs'])\n"
        "made.start(); os.waitpid(made.pid, 0); made.delete()\n"
    )
    import json

    bundle, rootfs = bench.bundle()
    spec = default_spec(["true"], user={"username": "nobody"})
    spec["linux"]["cgroupsPath"] = f"/sampan-rt-{os.getpid()}/import"
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    text = json.dumps({"spec": spec, "bundle": bundle, "rootfs": rootfs})
    done = subprocess.run([sys.executable, "-c", probe], input=text, capture_output=True, text=True, check=True)
    assert done.stderr == "|"


def test_cve_2019_14271_passwd_as_fifo_or_link_to_the_host_is_harmless(bench: Bench) -> None:
    spec = default_spec(["sh", "-c", "echo fine"], user={"username": "root"})
    bundle, rootfs = bench.bundle()
    etc = Path(bundle) / "upper" / "etc"
    etc.mkdir()
    os.mkfifo(etc / "passwd")
    with pytest.raises(RuntimeFailure, match="unable to find user root: no matching entries in passwd file"):
        bench.create(spec, rootfs=rootfs)
    spec["process"]["user"]["username"] = "0"
    assert bench.run(spec, rootfs=rootfs).out == "fine\n"


def test_cve_2022_24769_the_inheritable_set_is_empty(bench: Bench) -> None:
    assert bench.shell("grep CapInh /proc/self/status").out.split() == ["CapInh:", "0" * 16]
    made = bench.create(default_spec(["sleep", "100"]))
    made.start()
    assert bench.exec(made, ["grep", "CapInh", "/proc/self/status"]).out.split() == ["CapInh:", "0" * 16]


@pytest.mark.parametrize("uid", [-1, 2**31, 2**32, 2**64])
def test_cve_2024_40635_uid_overflow(bench: Bench, uid: int) -> None:
    with pytest.raises(InvalidSpec, match=r"process\.user\.uid"):
        bench.create(default_spec(["true"], user={"uid": uid, "gid": 0}))


def test_the_daemons_keyring_is_not_the_containers(bench: Bench) -> None:
    spec = default_spec(["cat", "/proc/keys"])
    spec["linux"]["maskedPaths"] = []
    out = bench.run(spec).out
    assert "_ses.test1" in out


def test_saferoot_refuses_magic_links_and_stays_below(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "up").symlink_to("../../../../etc")
    (tmp_path / "abs").symlink_to("/in")
    root = os.open(tmp_path, O_PATH | os.O_DIRECTORY)
    try:
        fd = open_in_root(root, "/abs")
        assert os.path.samestat(os.fstat(fd), (tmp_path / "in").stat())
        os.close(fd)
        with pytest.raises(FileNotFoundError):
            open_in_root(root, "/up/passwd")
        fd, made = mkdirs(root, "/up/x/y")
        os.close(fd)
        assert made and (tmp_path / "etc/x/y").is_dir()
        proc = os.open("/proc", O_PATH | os.O_DIRECTORY)
        with pytest.raises(OSError) as caught:
            open_in_root(proc, "self/cwd")
        assert caught.value.errno == errno.ELOOP
        os.close(proc)
        (tmp_path / "file").write_text("")
        with pytest.raises(NotADirectoryError):
            mkdirs(root, "/file")
    finally:
        os.close(root)


def test_saferoot_link_loops_and_dots(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "a").symlink_to("b/x")
    (tmp_path / "b").symlink_to("a/x")
    root = os.open(tmp_path, O_PATH | os.O_DIRECTORY)
    try:
        for path, number in (("loop/x", errno.ELOOP), ("a/y", errno.ELOOP), ("missing/../x", errno.EINVAL)):
            with pytest.raises(OSError) as caught:
                open_or_make(root, path, directory=True)
            assert caught.value.errno == number
        fd, made = open_or_make(root, "new/file", directory=False, mode=0o644)
        assert made and stat.S_ISREG(os.fstat(fd).st_mode)
        os.close(fd)
    finally:
        os.close(root)


def test_saferoot_under_a_race(tmp_path: Path) -> None:
    """A component that flips between a directory and a link to the host never leads outside."""
    root_path = tmp_path / "root"
    (root_path / "dir" / "target").mkdir(parents=True)
    (root_path / "link").symlink_to("../" * 10 + "etc")
    flipper = os.fork()
    if flipper == 0:
        from sampan.linux.syscalls import bind, raw  # already imported: no new module

        renameat2 = bind(316 if os.uname().machine == "x86_64" else 276, *_renameat2_types())
        while True:
            renameat2(-100, raw(str(root_path / "dir")), -100, raw(str(root_path / "link")), 2)
    root = os.open(root_path, O_PATH | os.O_DIRECTORY)
    try:
        for _ in range(2000):
            with pytest.raises(OSError, match=r"No such file|temporarily unavailable"):
                open_in_root(root, "dir/target/../passwd")
    finally:
        os.kill(flipper, 9)
        os.waitpid(flipper, 0)
        os.close(root)


def _renameat2_types() -> list[type]:
    import ctypes

    return [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]


def test_the_plan_says_everything_before_anything_happens() -> None:
    spec: Spec = default_spec(["true"])
    lines = planning.build(spec, id="x", bundle="/b").describe()
    assert lines[0] == "cgroup /x"
    assert "new namespaces mount pid network ipc uts" in lines
    assert "mount proc proc at /proc (nosuid,noexec,nodev)" in lines
    assert "masked /proc/keys" in lines
    assert lines[-1] == "exec ['true']"
