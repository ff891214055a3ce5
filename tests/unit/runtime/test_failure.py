"""A failure crosses the channel as one JSON record and comes out the same."""

from __future__ import annotations

import errno

import pytest

from sampan.runtime import failure, sync
from sampan.runtime.failure import RuntimeFailure


@pytest.mark.parametrize(
    ("error", "number", "message"),
    [
        (OSError(errno.ENOENT, "x", "/p"), 2, "rootfs /p: no such file or directory"),
        (OSError(errno.EPERM, "x"), 1, "rootfs: operation not permitted"),
        (OSError(errno.EXDEV, "x", "/a", None, "/b"), 18, "rootfs /a to /b: invalid cross-device link"),
        (ValueError("odd"), 0, "rootfs: ValueError: odd"),
    ],
)
def test_any_error_names_its_step(error: Exception, number: int, message: str) -> None:
    back = failure.decode(failure.encode("rootfs", error))
    assert (back.step, back.errno, back.message) == ("rootfs", number, message)


def test_a_failure_keeps_its_own_step() -> None:
    back = failure.decode(failure.encode("process", RuntimeFailure("user", 0, "unable")))
    assert (back.step, back.message) == ("user", "unable")


def test_the_channel_raises_what_the_other_side_reports() -> None:
    ours, theirs = sync.pair()
    try:
        theirs.send(sync.GATE)
        assert ours.receive() == (sync.GATE, None)
        theirs.send(failure.encode("mounts", OSError(errno.EACCES, "x", "/m")))
        with pytest.raises(RuntimeFailure, match="mounts /m: permission denied"):
            ours.receive()
        assert not ours.is_abandoned()
        theirs.send(sync.GO)
        theirs.close()
        assert not ours.is_abandoned()
        assert ours.receive() == (sync.GO, None)
        assert ours.is_abandoned()
        assert ours.receive() == (b"", None)
    finally:
        ours.close()


def test_a_reason_is_heard_although_the_other_side_did_not_read_our_last_packet() -> None:
    ours, theirs = sync.pair()
    ours.send(sync.GO)
    theirs.send(failure.encode("namespaces", OSError(errno.EINVAL, "x")))
    theirs.close()
    with pytest.raises(RuntimeFailure, match="namespaces: invalid argument"):
        ours.receive()
    assert ours.receive() == (b"", None)
    ours.close()
