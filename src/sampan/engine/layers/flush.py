"""A layer's files on the disk, without waiting for everybody else's.

syncfs(2) writes out the whole file system: beside a container that has just written 600 MB it takes two seconds for a
layer of 125 MB that by itself takes a quarter of one. Where the file system has a journal whose commit takes all
earlier changes with it, in their order (ext4 with a journal, xfs), this is enough, and all that happens here:

    while unpacking    sync_file_range(WRITE) of each file: its blocks are allocated and under way to the disk
    a little later     sync_file_range(WAIT) of the same file: its data is there, its extents are in the journal
    at the end         a change to the layer's directory, and fsync of that: the journal is committed up to here,
                       and the disk's cache flushed once

Elsewhere (ext4 without a journal, btrfs, tmpfs, …) it is syncfs. See docs/adr/0009.

Source: sync_file_range(2); kernel fs/ext4/fsync.c, fs/ext4/page-io.c (pages stay under writeback until their extents
are converted), fs/xfs/xfs_file.c.
"""

from __future__ import annotations

import os
import queue
import threading

from sampan.linux import filesystems

BATCH = 32  # files: so many are set on their way together; a layer of fewer needs no thread

_THERE = (
    filesystems.SYNC_FILE_RANGE_WAIT_BEFORE | filesystems.SYNC_FILE_RANGE_WRITE | filesystems.SYNC_FILE_RANGE_WAIT_AFTER
)


def commits_in_order(fd: int) -> bool:
    """Whether an fsync on this file system makes every earlier change of metadata durable too."""
    device = os.fstat(fd).st_dev
    name = os.path.basename(os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
    if os.path.isdir(f"/sys/fs/xfs/{name}"):
        return True
    try:
        with open(f"/sys/fs/ext4/{name}/journal_task") as file:
            return file.read().strip() != "<none>"
    except OSError:
        return False


class Flush:
    """One layer's way to the disk: `close` every written file through it, `finish` when the layer is complete.

    From one thread. `abandon` on every path: it closes what is left when `finish` was not reached.
    """

    def __init__(self, layer_fd: int) -> None:
        self._layer_fd = layer_fd
        self._own = commits_in_order(layer_fd)
        self._batch: list[int] = []
        self._queue: queue.Queue[list[int]] = queue.Queue(1)
        self._thread: threading.Thread | None = None
        self._given_up = False
        self._failure: OSError | None = None

    def close(self, fd: int) -> None:
        """Take over the descriptor of a file that is complete."""
        if not self._own:
            os.close(fd)
            return
        self._batch.append(fd)
        if len(self._batch) == BATCH:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="images-flush", daemon=True)
                self._thread.start()
            self._queue.put(self._batch)
            self._batch = []

    def finish(self, *, later: bool) -> bool:
        """Return when the layer is on the disk. Raises: OSError when it could not be written.

        later: where that takes a syncfs, leave it to the caller, who does one for many layers. True: it is there.
        """
        if not self._own:
            if not later:
                filesystems.syncfs(self._layer_fd)
            return not later
        self._begin(self._batch)
        self._end()
        if self._failure is not None:
            raise self._failure
        os.utime(self._layer_fd)
        os.fsync(self._layer_fd)
        return True

    def abandon(self) -> None:
        """Close what is open. Idempotent."""
        self._given_up = True
        self._end()

    def _end(self) -> None:
        if self._thread is not None:
            self._queue.put([])
            self._thread.join()
            self._thread = None
        self._land(self._batch)
        self._batch = []

    def _run(self) -> None:
        before: list[int] = []
        while batch := self._queue.get():
            self._begin(batch)
            self._land(before)
            before = batch
        self._land(before)

    def _begin(self, batch: list[int]) -> None:
        """Set the data of these files on its way."""
        for fd in batch:
            self._range(fd, filesystems.SYNC_FILE_RANGE_WRITE)

    def _land(self, batch: list[int]) -> None:
        """Wait until it is there, and close them."""
        for fd in batch:
            self._range(fd, _THERE)
            os.close(fd)

    def _range(self, fd: int, flags: int) -> None:
        if self._given_up or self._failure is not None:
            return
        try:
            filesystems.sync_file_range(fd, 0, 0, flags)
        except OSError as e:
            self._failure = e
