"""What the log drivers write: Docker's lines, cut where Docker cuts them, in files that rotate where Docker rotates
them.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import InvalidArgument
from sampan.spec.times import rfc3339_nano
from sampan.supervisor.logs import compression, lines, options
from sampan.supervisor.logs.drivers import open_sink
from sampan.supervisor.logs.files import RotatingFile
from sampan.supervisor.logs.json_file import JsonFile, escape
from sampan.supervisor.logs.local import Local
from sampan.supervisor.logs.record import LogSink, Partial
from tests.support.engine import until

KIB16 = 16 * 1024
NOON_NS = 1_795_435_200_000_000_000  # 2026-11-23T12:00:00Z


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., LogSink]:
    def open_(driver: str = "json-file", *, attrs: dict[str, str] | None = None, **log_options: str) -> LogSink:
        return open_sink(
            driver, str(tmp_path / "log"), {k.replace("_", "-"): v for k, v in log_options.items()}, attrs or {}
        )

    return open_


def logged(path: Path) -> list[str]:
    return [json.loads(line)["log"] for line in path.read_text().splitlines()]


def test_a_line_is_dockers_byte_for_byte() -> None:
    """Recorded from Docker Engine 28.5, but for bytes that are no UTF-8: Docker keeps no trace of which they were."""
    written = JsonFile({"tag": "sup-t1", "a": "b"}).render(
        "stdout", b'a\tb"<>&\\ \xff\xfe \xe2\x80\xa8 \xc3\xa9\r\n', 1795466975864575889, None
    )
    assert written == (
        b'{"log":"a\\u0009b\\"\\u003c\\u003e\\u0026\\\\ \\udcff\\udcfe \\u2028 \xc3\xa9\\r\\n","stream":"stdout",'
        b'"attrs":{"a":"b","tag":"sup-t1"},"time":"2026-11-23T20:49:35.864575889Z"}\n'
    )


def test_times_have_no_trailing_zeros() -> None:
    assert rfc3339_nano(NOON_NS) == "2026-11-23T12:00:00Z"
    assert rfc3339_nano(NOON_NS + 870_011_020) == "2026-11-23T12:00:00.87001102Z"


@settings(deadline=None)
@given(st.binary())
def test_escaping_is_json_and_keeps_the_text(data: bytes) -> None:
    data = data.replace(b"\n", b"")
    decoded = json.loads(b'"' + escape(data) + b'"')
    # one lone surrogate for each byte that is no UTF-8: Go's decoder reads U+FFFD, ours the byte
    assert decoded.encode("utf-8", "surrogateescape") == data


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 3 * KIB16), max_size=6), st.integers(1, 50_000))
def test_cutting_does_not_depend_on_how_the_reads_fall(lengths: list[int], read_size: int) -> None:
    data = b"".join(b"x" * n + b"\n" for n in lengths)
    pieces, rest = [], b""
    for at in range(0, len(data), read_size):
        found, rest = lines.split(rest + data[at : at + read_size])
        pieces += found
    assert rest == b""
    records = [r for block, complete in pieces for r in (block.splitlines(keepends=True) if complete else [block])]
    expected: list[bytes] = []
    for n in lengths:
        expected += [b"x" * KIB16] * (n // KIB16) + [b"x" * (n % KIB16) + b"\n"]
    assert records == expected


def test_long_lines_are_cut_at_16_kib_and_share_their_time(tmp_path: Path, write: Callable[..., LogSink]) -> None:
    writer = write()
    writer.write("stdout", b"x" * 40_000)
    writer.write("stdout", b"end\nnext\n")
    writer.close()
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [len(r["log"]) for r in records] == [KIB16, KIB16, 40_000 - 2 * KIB16 + 4, 5]
    assert len({r["time"] for r in records[:3]}) == 1
    assert [r["log"][-1] for r in records] == ["x", "x", "\n", "\n"]


def test_what_follows_the_last_newline_is_logged_at_the_end(tmp_path: Path, write: Callable[..., LogSink]) -> None:
    writer = write()
    writer.write("stdout", b"one\ntwo")
    writer.write("stderr", b"err\n")
    assert logged(tmp_path / "log") == ["one\n", "err\n"]
    writer.end("stdout")
    writer.close()
    assert logged(tmp_path / "log") == ["one\n", "err\n", "two"]


def test_files_rotate_between_records_at_max_size(tmp_path: Path, write: Callable[..., LogSink]) -> None:
    writer = write(max_size="1k", max_file="3")
    for n in range(40):
        writer.write("stdout", f"line {n}\n".encode())
    writer.close()
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]
    for name in ("log.1", "log.2"):
        size = (tmp_path / name).stat().st_size
        last = len((tmp_path / name).read_bytes().splitlines()[-1]) + 1
        assert size >= 1000 > size - last  # full, and not before its last record
    kept = logged(tmp_path / "log.2") + logged(tmp_path / "log.1") + logged(tmp_path / "log")
    assert kept == [f"line {n}\n" for n in range(40 - len(kept), 40)]


def test_one_read_may_fill_several_files(tmp_path: Path, write: Callable[..., LogSink]) -> None:
    writer = write(max_size="1k", max_file="9")
    writer.write("stdout", b"".join(b"line %d\n" % n for n in range(40)))
    writer.close()
    rotated = sorted((n for n in os.listdir(tmp_path) if n != "log"), reverse=True)
    assert len(rotated) >= 2
    kept = [text for name in (*rotated, "log") for text in logged(tmp_path / name)]
    assert kept == [f"line {n}\n" for n in range(40)]


def test_a_single_file_is_emptied(tmp_path: Path, write: Callable[..., LogSink]) -> None:
    writer = write(max_size="1k")
    for n in range(40):
        writer.write("stdout", f"line {n}\n".encode())
    writer.close()
    assert os.listdir(tmp_path) == ["log"]
    assert logged(tmp_path / "log")[-1] == "line 39\n"
    assert (tmp_path / "log").stat().st_size < 1100


def test_rotated_files_are_compressed(tmp_path: Path, write: Callable[..., LogSink]) -> None:
    writer = write(max_size="1k", max_file="3", compress="true")
    for n in range(40):
        writer.write("stdout", f"line {n}\n".encode())
    writer.close()
    until(lambda: sorted(os.listdir(tmp_path)) == ["log", "log.1.gz", "log.2.gz"], 60, "both are compressed")
    text = gzip.decompress((tmp_path / "log.1.gz").read_bytes())
    assert text.startswith(b'{"log":"line ')


def test_what_a_compressor_has_missed_is_compressed_after_it(tmp_path: Path) -> None:
    """It has looked for the last time and not ended yet, when a file is set aside and the log ends."""
    compressor = compression.Compressor(str(tmp_path / "log"), 3)
    ending = subprocess.Popen(["sleep", "0.5"])
    compressor._pid, compressor._pidfd = ending.pid, os.pidfd_open(ending.pid)
    (tmp_path / "log.1").write_bytes(b"line\n")
    compressor.start()
    compressor.close()
    assert os.listdir(tmp_path) == ["log.1"]
    until(lambda: os.listdir(tmp_path) == ["log.1.gz"], 60, "it is compressed")
    ending.wait()


def test_a_full_disk_loses_lines_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    file = RotatingFile("/dev/full", options.Rotation(max_size=0, max_files=1, compress=False))
    file.write(b"record\n", lambda block, _: len(block))
    file.write(b"record\n", lambda block, _: len(block))
    file.close()
    assert file.dropped_bytes == 14
    assert capfd.readouterr().err.count("No space left on device") == 1


def test_local_records_are_dockers_byte_for_byte() -> None:
    """Recorded from Docker Engine 28.5: local-logs/container.log."""
    local = Local()
    name = "44b3878b582826abba76d49f8e0da573256d6a8ae68d4144d9986e4fd87909d6"
    one = local.render("stdout", b"one\n", 1795467148413069413, None)
    assert one.hex() == "000000170a067374646f757410e5d0ad98bdfbb1f5181a036f6e6500000017"
    entry = local.render("stdout", b"tail", 1795467148413069413, Partial(name, 1, False))
    assert entry[:4] == entry[-4:] == b"\x00\x00\x00\x60"
    assert entry[4:-4].hex().endswith("1a047461696c20012a441240" + name.encode().hex() + "1801")


@pytest.mark.parametrize(
    ("driver", "given_options", "message"),
    [
        ("json-file", {"foo": "1"}, "unknown log opt 'foo' for json-file log driver"),
        ("local", {"tag": "x"}, "unknown log opt 'tag' for log driver local"),
        ("nope", {}, 'error looking up logging plugin nope: plugin "nope" not found'),
        ("json-file", {"mode": "foo"}, "logger: logging mode not supported: foo"),
        (
            "json-file",
            {"max-buffer-size": "1m"},
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        (
            "json-file",
            {"mode": "non-blocking", "max-buffer-size": "x"},
            "error parsing option max-buffer-size: invalid size: 'x'",
        ),
    ],
)
def test_refused_at_create(driver: str, given_options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        options.validate(driver, given_options)
    assert refusal.value.message == message


@pytest.mark.parametrize(
    ("driver", "given_options", "message"),
    [
        ("json-file", {"max-size": "abc"}, "invalid size: 'abc'"),
        ("json-file", {"max-size": "-1"}, "invalid size: '-1'"),
        ("json-file", {"max-size": "0"}, "max-size must be a positive number"),
        ("json-file", {"max-file": "0"}, "max-file cannot be less than 1"),
        ("json-file", {"max-file": "x"}, 'strconv.Atoi: parsing "x": invalid syntax'),
        ("json-file", {"compress": "x"}, 'strconv.ParseBool: parsing "x": invalid syntax'),
        (
            "json-file",
            {"compress": "true"},
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ),
        ("local", {"max-size": "x"}, "invalid value for max-size: x: invalid size: 'x'"),
        ("local", {"max-file": "1"}, "compression cannot be enabled when max file count is 1"),
        (
            "local",
            {"compress": "x"},
            'error reading compress log option: strconv.ParseBool: parsing "x": invalid syntax',
        ),
    ],
)
def test_refused_at_start(driver: str, given_options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        options.rotation(driver, given_options)
    assert refusal.value.message == message


@pytest.mark.parametrize(
    ("text", "unit", "size"),
    [
        ("10m", 1000, 10_000_000),
        ("1k", 1024, 1024),
        ("1.5 GB", 1000, 1_500_000_000),
        ("7", 1000, 7),
        ("2MiB", 1024, 2 << 20),
    ],
)
def test_sizes(text: str, unit: int, size: int) -> None:
    assert options.size_bytes(text, unit=unit) == size


def test_none_writes_nothing(tmp_path: Path) -> None:
    sink = open_sink("none", str(tmp_path / "log"), {}, {})
    sink.write("stdout", b"line\n")
    sink.close()
    assert os.listdir(tmp_path) == []
