"""Frames, errors and paths between supervisor, shim and client."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan import errors
from sampan.supervisor import layout, wire
from sampan.supervisor.shim import network_counters


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_frames_survive_any_cutting(step: int) -> None:
    messages = [{"seq": n, "op": "x" * n} for n in range(20)]
    data = b"".join(wire.frame(m) for m in messages)
    unframer = wire.Unframer()
    found = [m for at in range(0, len(data), step) for m in unframer.feed(data[at : at + step])]
    assert found == messages


def test_an_absurd_length_is_refused() -> None:
    with pytest.raises(ValueError, match="frame of 4294967295 bytes"):
        wire.Unframer().feed(b"\xff\xff\xff\xff")


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFound("a"),
        errors.Conflict("b"),
        errors.InvalidArgument("c"),
        errors.Unavailable("d"),
        errors.NotImplemented_("e"),
        wire.TaskFailed("exec", 2, "f"),
    ],
)
def test_errors_cross_with_kind_and_message(error: errors.SampanError) -> None:
    again = wire.error_from_wire(wire.decode(wire.line(wire.error_to_wire(error))))
    assert (type(again), again.message) == (type(error), error.message)
    if isinstance(error, wire.TaskFailed):
        assert isinstance(again, wire.TaskFailed)
        assert (again.step, again.errno) == (error.step, error.errno)


def test_what_is_nobodys_kind_is_internal() -> None:
    again = wire.error_from_wire(wire.error_to_wire(OSError(24, "Too many open files", "/x")))
    assert (type(again), again.message) == (errors.Internal, "/x: Too many open files")


def test_sockets_below_long_paths(tmp_path: Path) -> None:
    """sun_path holds 108 bytes; an exec root may be longer."""
    directory = tmp_path / ("d" * 120) / ("e" * 120)
    directory.mkdir(parents=True)
    with layout.listen(str(directory), "x.sock") as server, layout.connect(str(directory), "x.sock") as client:
        peer, _ = server.accept()
        with peer:
            assert layout.peer_uid(peer) == layout.peer_uid(client) == os.geteuid()
        assert (directory / "x.sock").stat().st_mode & 0o777 == 0o600
    with layout.listen(str(directory), "x.sock"):  # a leftover is replaced
        pass
    with pytest.raises(ConnectionRefusedError):
        layout.connect(str(directory), "x.sock")


def test_records_on_disk(tmp_path: Path) -> None:
    path = str(tmp_path / "shim.json")
    assert layout.read_json(path) is None
    layout.write_json(path, {"pid": 1}, durable=True)
    assert layout.read_json(path) == {"pid": 1}
    assert os.listdir(tmp_path) == ["shim.json"]
    for damage in ("", '{"pid": ', "[1]", "\0\0"):
        Path(path).write_text(damage)
        assert layout.read_json(path) is None


def test_interface_counters() -> None:
    text = (
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls "
        "carrier compressed\n"
        "    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0      "
        " 0          0\n"
        "  eth0:    1296      16    1    2    0     0          0         0      126       3    4    5    0     0      "
        " 0          0\n"
    )
    assert network_counters.parse(text) == {
        "eth0": {
            "rx_bytes": 1296,
            "rx_packets": 16,
            "rx_errors": 1,
            "rx_dropped": 2,
            "tx_bytes": 126,
            "tx_packets": 3,
            "tx_errors": 4,
            "tx_dropped": 5,
        }
    }
