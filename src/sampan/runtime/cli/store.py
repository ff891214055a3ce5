"""Where sampan-runc keeps its containers, and what state they are in.

    <root>/<id>/state.json    {"version", "created", "rootfs", "annotations", "container": Container.to_state()}

The directory is made exclusively: it is what makes an id unique. state.json is written tmp + rename; the root should be
on tmpfs, so nothing is synced.

Source: OCI runtime-spec 1.2 runtime.md "State".
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from sampan.runtime.cli.output import CommandFailure
from sampan.runtime.container import Container
from sampan.runtime.plan import OCI_VERSION

_ID = re.compile(r"[\w+\-.]+", re.ASCII)
NOT_THERE = "container does not exist"


class StoredContainer:
    """One container on disk, with its live half."""

    def __init__(self, store: ContainerStore, record: dict[str, Any]) -> None:
        self.store = store
        self.record = record
        self.container = Container.from_state(record["container"])

    def status(self) -> str:
        """Return created, running, paused or stopped, as the kernel has it now."""
        container = self.container
        if container.pidfd < 0 or _is_dead(container.pid):
            return "stopped"
        if container.cgroup.frozen():
            return "paused"
        return "created" if container.waits_at_gate() else "running"

    def state(self) -> dict[str, Any]:
        """Return the state as runc prints it."""
        status = self.status()
        container = self.container
        result = {
            "ociVersion": OCI_VERSION,
            "id": container.id,
            "pid": 0 if status == "stopped" else container.pid,
            "status": status,
            "bundle": container.bundle,
            "rootfs": self.record["rootfs"],
            "created": self.record["created"],
        }
        if container.spec.get("annotations"):
            result["annotations"] = container.spec["annotations"]
        result["owner"] = ""
        return result

    def save(self) -> None:
        self.store.save(self.container, self.record)


class ContainerStore:
    """The directory of all containers of one --root."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def reserve(self, id: str) -> None:
        """Take an id. Raises: CommandFailure when its form is wrong or it is taken."""
        check_id(id)
        os.makedirs(self.root, 0o711, exist_ok=True)
        try:
            os.mkdir(f"{self.root}/{id}", 0o711)
        except FileExistsError:
            raise CommandFailure("container with given ID already exists") from None

    def save(self, container: Container, record: dict[str, Any]) -> None:
        record = {**record, "container": container.to_state()}
        path = f"{self.root}/{container.id}/state.json"
        with open(path + ".tmp", "w", encoding="utf-8") as file:
            file.write(json.dumps(record, separators=(",", ":")))  # dumps is in C, dump is not
        os.rename(path + ".tmp", path)

    def load(self, id: str) -> StoredContainer:
        """Return a container. Raises: CommandFailure when there is none."""
        check_id(id)
        try:
            with open(f"{self.root}/{id}/state.json", encoding="utf-8") as file:
                return StoredContainer(self, json.load(file))
        except FileNotFoundError:
            raise CommandFailure(NOT_THERE) from None
        except ValueError as error:
            raise CommandFailure(f"container {id}: unreadable state.json: {error}") from error

    def forget(self, id: str) -> None:
        directory = f"{self.root}/{id}"
        try:
            for entry in os.scandir(directory):
                os.unlink(entry.path)
            os.rmdir(directory)
        except FileNotFoundError:
            pass

    def ids(self) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        except FileNotFoundError:
            return []


def new_record(spec: dict[str, Any], bundle: str) -> dict[str, Any]:
    """Return what is kept beside the container's own state."""
    from sampan.spec import times  # only `create` makes a record

    rootfs = os.path.normpath(os.path.join(bundle, (spec.get("root") or {}).get("path") or ""))
    return {"version": 1, "created": times.now(), "rootfs": rootfs}


def check_id(id: str) -> None:
    if not id:
        raise CommandFailure("container id cannot be empty")
    if not _ID.fullmatch(id) or id in (".", ".."):
        raise CommandFailure("invalid container ID format")


def _is_dead(pid: int) -> bool:
    """Return whether a process is gone, or a zombie that nobody has reaped."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return True
