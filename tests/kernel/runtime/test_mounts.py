"""Mounts: binds, attributes, propagation, id maps, tmpfs, cgroups, overlays of many layers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sampan.linux import mounts as m
from sampan.linux import namespaces
from sampan.linux.cgroups.hierarchy import layout
from sampan.runtime.container import RuntimeFailure
from sampan.runtime.plan import PlannedMount
from sampan.runtime.steps import rootfs
from tests.kernel.runtime.harness import Bench, Snapshot, Spec, default_spec, reap


def adding(*mounts: Spec) -> Any:
    return lambda spec: spec["mounts"].extend(mounts)


def bind(source: Path, destination: str, *options: str) -> Spec:
    return {"type": "bind", "source": str(source), "destination": destination, "options": ["rbind", *options]}


def mount_line(out: str, destination: str) -> list[str]:
    """Fields of /proc/self/mountinfo for a mount point."""
    lines = [line.split() for line in out.splitlines()]
    return next(fields for fields in reversed(lines) if len(fields) > 4 and fields[4] == destination)


def test_bind_of_a_file_makes_its_mount_point(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("content")
    result = bench.shell("cat /new/dir/f; ls -l /new", adding(bind(tmp_path / "f", "/new/dir/f", "ro")))
    assert result.out.startswith("content")
    assert (bench.upper / "new/dir/f").read_text() == ""


def test_bind_read_only_is_read_only_and_the_source_is_not(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "d"
    source.mkdir()
    result = bench.shell("touch /d/x; touch /w/y && echo ok", adding(bind(source, "/d", "ro"), bind(source, "/w")))
    assert "Read-only file system" in result.err
    assert result.out == "ok\n"
    assert (source / "y").exists()


def test_attributes_of_a_bind(bench: Bench, tmp_path: Path) -> None:
    change = adding(bind(tmp_path, "/a", "nosuid", "nodev", "noexec", "noatime"), bind(tmp_path, "/b", "strictatime"))
    out = bench.shell("cat /proc/self/mountinfo", change).out
    assert mount_line(out, "/a")[5] == "rw,nosuid,nodev,noexec,noatime"
    assert mount_line(out, "/b")[5] == "rw"


def test_recursive_read_only_reaches_what_is_mounted_below(bench: Bench) -> None:
    mounts = [{"type": "tmpfs", "source": "t", "destination": "/t", "options": []}]
    mounts.append(bind(Path("/proc"), "/all", "rro"))
    out = bench.shell("cat /proc/self/mountinfo; touch /t/x && echo ok", adding(*mounts)).out
    assert mount_line(out, "/all")[5].startswith("ro")
    assert out.endswith("ok\n")


def test_rro_of_a_tree(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "inner", str(tmp_path / "inner")], check=True)
    try:
        change = adding(bind(tmp_path, "/plain", "ro"), bind(tmp_path, "/deep", "rro"))
        result = bench.shell("touch /plain/inner/x && echo ok; touch /deep/inner/y", change)
    finally:
        subprocess.run(["umount", str(tmp_path / "inner")], check=True)
    assert result.out == "ok\n"
    assert "/deep/inner/y: Read-only file system" in result.err


def test_a_bind_that_is_not_recursive(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "inner", str(tmp_path / "inner")], check=True)
    try:
        (tmp_path / "inner" / "mark").write_text("")
        flat = {"type": "bind", "source": str(tmp_path), "destination": "/flat", "options": ["bind-nonrecursive"]}
        result = bench.shell("ls /flat/inner /deep/inner", adding(flat, bind(tmp_path, "/deep")))
    finally:
        subprocess.run(["umount", str(tmp_path / "inner")], check=True)
    assert result.out == "/deep/inner:\nmark\n\n/flat/inner:\n"


@pytest.mark.parametrize(("option", "tag"), [("rshared", "shared:"), ("rslave", "master:"), ("rprivate", "")])
def test_propagation(bench: Bench, tmp_path: Path, option: str, tag: str) -> None:
    source = tmp_path / "s"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "s", str(source)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(source)], check=True)

        def change(spec: Spec) -> None:
            spec["mounts"].append(bind(source, "/s", option))
            spec["linux"]["rootfsPropagation"] = "rshared" if option == "rshared" else "rslave"

        fields = mount_line(bench.shell("cat /proc/self/mountinfo", change).out, "/s")
    finally:
        subprocess.run(["umount", str(source)], check=True)
    optional = fields[6 : fields.index("-")]
    assert any(field.startswith(tag) for field in optional) if tag else not optional


def test_a_shared_volume_hands_mounts_out_and_in(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "s", str(source)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(source)], check=True)
        spec = default_spec(["sh", "-c", "mkdir /s/in && mount -t tmpfs in /s/in && exec sleep 100"])
        spec["process"]["capabilities"] = {name: ["CAP_SYS_ADMIN"] for name in ("bounding", "effective", "permitted")}
        spec["mounts"].append(bind(source, "/s", "rshared"))
        spec["linux"]["rootfsPropagation"] = "rshared"
        made = bench.create(spec)
        made.start()
        while Path(f"/proc/{made.pid}/comm").read_text() != "sleep\n":
            os.sched_yield()
        assert os.path.ismount(source / "in")
        made.signal(9)
        assert reap(made) == 137
        subprocess.run(["umount", str(source / "in")], check=True)
    finally:
        subprocess.run(["umount", str(source)], check=True)


def test_tmpfs_keeps_the_mode_of_what_it_covers(bench: Bench) -> None:
    plain = {"type": "tmpfs", "source": "tmpfs", "destination": "/tmp", "options": ["size=1m"]}
    moded = {"type": "tmpfs", "source": "tmpfs", "destination": "/x", "options": ["mode=710", "uid=5", "gid=6"]}
    result = bench.shell("stat -c '%a %u %g' /tmp /x; df -k /tmp | tail -1", adding(plain, moded))
    assert result.out.splitlines()[:2] == ["1777 0 0", "710 5 6"]
    assert result.out.split()[-5] == "1024"


def test_tmpcopyup(bench: Bench) -> None:
    tmpfs = {"type": "tmpfs", "source": "tmpfs", "destination": "/data", "options": ["tmpcopyup", "ro"]}
    files = {"data/a": "A", "data/sub/b": "B", "data/link": "-> sub/b"}
    script = "cat /data/a /data/link; readlink /data/link; stat -c %a /data/a; touch /data/x"
    result = bench.run(_with(["sh", "-c", script], tmpfs), files=files)
    assert result.out == "ABsub/b\n755\n"
    assert "Read-only" in result.err


def _with(args: list[str], *mounts: Spec) -> Spec:
    spec = default_spec(args)
    spec["mounts"].extend(mounts)
    return spec


def test_a_destination_that_is_a_symlink_stays_inside(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("content")
    files = {"etc/resolv.conf": "-> ../run/systemd/stub.conf", "abs": "-> /etc/target", "up": "-> ../../../../escaped"}
    mounts = [bind(tmp_path / "f", path) for path in ("/etc/resolv.conf", "/abs", "/up/x")]
    result = bench.run(_with(["sh", "-c", "cat /run/systemd/stub.conf /etc/target /escaped/x"], *mounts), files=files)
    assert result.out == "content" * 3


def test_a_missing_source_is_named(bench: Bench) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        bench.shell("true", adding(bind(Path("/nosuchthing"), "/x")))
    assert caught.value.step == "mounts"
    assert 'error mounting "/nosuchthing" to rootfs at "/x"' in caught.value.message
    assert caught.value.message.endswith("no such file or directory")


def test_a_file_on_a_directory_is_worded_as_the_reference_does(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(RuntimeFailure) as caught:
        bench.shell("true", adding(bind(tmp_path / "f", "/etc")))
    assert caught.value.message.startswith(f'error mounting "{tmp_path}/f" to rootfs at "/etc": mount src={tmp_path}/f')
    assert caught.value.message.endswith(": not a directory")


def test_an_unknown_file_system_is_named(bench: Bench) -> None:
    with pytest.raises(RuntimeFailure, match=r'error mounting "x" to rootfs at "/x".*no such device'):
        bench.shell("true", adding({"type": "cheesefs", "source": "x", "destination": "/x"}))


def test_id_mapped_bind(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "d"
    source.mkdir()
    (source / "f").write_text("")
    os.chown(source / "f", 1000, 1000)
    maps = [{"containerID": 1000, "hostID": 7000, "size": 10}]
    mount = {**bind(source, "/d", "idmap"), "uidMappings": maps, "gidMappings": maps}
    assert bench.shell("stat -c '%u %g' /d/f", adding(mount)).out == "7000 7000\n"


def test_cgroup_mount_shows_the_containers_own(bench: Bench) -> None:
    if layout().mode == "unified":
        result = bench.shell("cat /sys/fs/cgroup/cgroup.procs; touch /sys/fs/cgroup/x")
    else:
        result = bench.shell("cat /sys/fs/cgroup/pids/tasks; mkdir /sys/fs/cgroup/pids/x")
    assert result.out.splitlines()[0] == "1"
    assert "Read-only" in result.err


def test_cgroup_namespace(bench: Bench) -> None:
    def change(spec: Spec) -> None:
        spec["linux"]["namespaces"].append({"type": "cgroup"})

    result = bench.shell("cat /proc/self/cgroup; ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/pids/x", change)
    lines = [line for line in result.out.splitlines() if ":" in line]
    assert lines and all(line.endswith(":/") for line in lines)
    assert "Read-only" in result.err


def test_overlay_of_more_than_a_hundred_layers(bench: Bench, lower: Path, tmp_path: Path) -> None:
    layers = []
    deep = tmp_path / ("long" * 40) / ("name" * 40)  # beyond the 255 bytes of one fsconfig string
    for number in range(120):
        layer = (deep if number % 2 else tmp_path) / f"layer:{number}"
        layer.mkdir(parents=True)
        (layer / f"f{number}").write_text("")
        layers.append(str(layer).replace(":", "\\:"))
    _, rootfs = bench.bundle()
    rootfs[0]["options"][0] = "lowerdir=" + ":".join([*layers, str(lower)])
    spec = default_spec(["sh", "-c", "ls -d /f* | wc -l"])
    assert bench.run(spec, rootfs=rootfs).out == "120\n"


def test_overlay_as_kernels_before_6_8_want_it(root: None, tmp_path: Path) -> None:
    """mount(2) takes one page of data: a hundred layers fit only as short relative paths. In a mount namespace of its
    own.
    """
    names = [f"snapshots/{number}/fs" for number in range(100)]
    for name in [*names, "snapshots/up/fs", "snapshots/up/work"]:
        (tmp_path / name).mkdir(parents=True)
    for name in names:
        (tmp_path / name / name.replace("/", "-")).write_text("")
    options = ["lowerdir=" + ":".join(str(tmp_path / name) for name in names)]
    options += [f"upperdir={tmp_path}/snapshots/up/fs", f"workdir={tmp_path}/snapshots/up/work", "nosuid"]
    mount = PlannedMount({"type": "overlay", "source": "overlay", "destination": "/", "options": options})
    child = os.fork()
    if child == 0:
        code = 1
        try:
            namespaces.unshare(namespaces.CLONE_NEWNS)
            m.mount(None, "/", None, m.MS_REC | m.MS_PRIVATE)
            before = Path("/proc/self/mountinfo").read_text()
            fd = rootfs.overlay_by_relative_paths(mount)
            os.close(os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
            listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            right = len(os.listdir(listing)) == 101 and os.fstatvfs(fd).f_flag & os.ST_NOSUID
            code = 0 if right and Path("/proc/self/mountinfo").read_text() == before else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "snapshots/up/fs/made").exists()


def test_remount_changes_what_is_there(bench: Bench) -> None:
    remounts = [
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["remount", "size=8k", "nosuid"]},
        {"destination": "/sys", "options": ["remount", "bind", "noatime", "ro"]},
    ]
    out = bench.shell("df -k /dev/shm | tail -1; cat /proc/self/mountinfo", adding(*remounts)).out
    assert out.split()[1] == "8"
    assert "noatime" in mount_line(out, "/sys")[5]


def test_read_only_root(bench: Bench) -> None:
    spec = default_spec(["sh", "-c", "touch /x; touch /dev/shm/y && echo ok"])
    spec["root"]["readonly"] = True
    result = bench.run(spec)
    assert "/x: Read-only file system" in result.err
    assert result.out == "ok\n"


def test_nothing_is_mounted_on_the_host(bench: Bench) -> None:
    before = Snapshot(bench.directory).mounts
    made = bench.create(default_spec(["sleep", "100"]))
    made.start()
    assert Snapshot(bench.directory).mounts == before
    assert os.listdir(os.path.join(made.bundle, "rootfs")) == []


def test_a_root_that_is_not_pivoted(bench: Bench) -> None:
    result = bench.run(default_spec(["sh", "-c", "ls / | wc -l; ls -d /rootfs /work; pwd"]), pivot=False)
    assert result.out.split() == [str(len(os.listdir(bench.lower))), "/"]


def test_a_root_directory_without_mounts(bench: Bench, lower: Path) -> None:
    bundle, _ = bench.bundle()
    os.rmdir(f"{bundle}/rootfs")
    subprocess.run(["cp", "-a", str(lower), f"{bundle}/rootfs"], check=True)
    spec = default_spec(["sh", "-c", "echo ok > /made"])
    spec["root"]["path"] = f"{bundle}/rootfs"
    assert bench.run(spec, rootfs=[]).status == 0
    assert Path(f"{bundle}/rootfs/made").read_text() == "ok\n"
