"""checkpoint and restore: through criu, when it is installed.

A checkpoint is criu's images plus `descriptors.json`, which says what standard input, output and error were.

Source: criu(8); OCI runtimes keep the same files.
"""

from __future__ import annotations

import json
import os
import shutil

from sampan.runtime.__main__ import Invocation
from sampan.runtime.cli.create import load, load_spec
from sampan.runtime.cli.output import CommandFailure
from sampan.runtime.cli.store import StoredContainer

_PASSED = (
    "tcp-established",
    "tcp-skip-in-flight",
    "link-remap",
    "ext-unix-sk",
    "shell-job",
    "file-locks",
    "auto-dedup",
    "lazy-pages",
)


def checkpoint(call: Invocation) -> int:
    entry = load(call)
    if entry.status() not in ("running", "paused"):
        raise CommandFailure(f"Container cannot be checkpointed in {entry.status()} state")
    _require_criu()
    images = os.path.abspath(call.flags.get("image-path") or "checkpoint")
    os.makedirs(images, 0o700, exist_ok=True)
    descriptors = [_link(entry.container.pid, fd) for fd in range(3)]
    with open(f"{images}/descriptors.json", "w", encoding="utf-8") as file:
        json.dump(descriptors, file)
    leave = call.flags.get("leave-running") or call.flags.get("pre-dump")
    _criu(call, _dump_arguments(call, entry, images), images, "dump.log")
    if not leave:
        entry.container.delete()
        entry.store.forget(entry.container.id)
    return 0


def _dump_arguments(call: Invocation, entry: StoredContainer, images: str) -> list[str]:
    flags = call.flags
    arguments = ["pre-dump" if flags.get("pre-dump") else "dump", "--tree", str(entry.container.pid)]
    arguments += ["--images-dir", images, "--manage-cgroups=" + (flags.get("manage-cgroups-mode") or "soft")]
    arguments += [f"--{name}" for name in _PASSED if flags.get(name)]
    if flags.get("leave-running"):
        arguments.append("--leave-running")
    if flags.get("parent-path"):
        arguments += ["--prev-images-dir", flags["parent-path"], "--track-mem"]
    if flags.get("page-server"):
        address, _, port = flags["page-server"].rpartition(":")
        arguments += ["--page-server", "--address", address, "--port", port]
    if flags.get("status-fd", -1) >= 0:
        arguments += ["--status-fd", str(flags["status-fd"])]
    freezer = entry.container.cgroup.paths.get("freezer")
    if freezer:
        arguments += ["--freeze-cgroup", freezer]
    arguments += ["--root", entry.record["rootfs"]]
    for mount in entry.container.spec.get("mounts") or ():
        words = mount.get("options") or []
        if "bind" in words or "rbind" in words:
            arguments += ["--external", f"mnt[{mount['destination']}]:{mount['destination']}"]
    return arguments


def restore(call: Invocation) -> int:
    bundle = call.flags.get("bundle")
    if bundle:
        os.chdir(bundle)
    load_spec()
    _require_criu()
    images = os.path.abspath(call.flags.get("image-path") or "checkpoint")
    try:
        with open(f"{images}/descriptors.json", encoding="utf-8") as file:
            json.load(file)
    except FileNotFoundError:
        raise CommandFailure(f"open {images}/descriptors.json: no such file or directory") from None
    raise CommandFailure("restore is not implemented: this runtime can make checkpoints, not start from them yet")


def _link(pid: int, fd: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return ""


def _require_criu() -> str:
    path = shutil.which("criu")
    if path is None:
        raise CommandFailure('CRIU version check failed: exec: "criu": executable file not found in $PATH')
    return path


def _criu(call: Invocation, arguments: list[str], images: str, log: str) -> None:
    """Run criu; its log stays in the work directory, and its last error is part of the message."""
    import subprocess

    path = _require_criu()
    work = os.path.abspath(call.flags.get("work-path") or images)
    os.makedirs(work, 0o700, exist_ok=True)
    command = [path, *arguments, "--work-dir", work, "--log-file", log, "-v4"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise CommandFailure(
            f"criu failed: exit status {done.returncode}\nlog file: {work}/{log}: {_last_error(work, log)}"
        )


def _last_error(work: str, log: str) -> str:
    try:
        with open(f"{work}/{log}", encoding="utf-8", errors="replace") as file:
            return [line.strip() for line in file if "Error" in line][-1]
    except (OSError, IndexError):
        return "no error logged"
