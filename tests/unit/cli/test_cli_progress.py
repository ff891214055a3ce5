"""Progress of pull and push: what docker 28.5 wrote for the same stream, to a pipe and to a terminal of 100 columns."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import socket
import struct
import termios
from typing import Any

import pytest

from sampan.cli import progress
from sampan.client.http import HttpConnection, Response

MESSAGES: list[dict[str, Any]] = [
    {"status": "Pulling from library/x", "id": "latest"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "aaa"},
    {"status": "Waiting", "progressDetail": {}, "id": "bbb"},
    {"status": "Downloading", "progressDetail": {"current": 100000, "total": 1000000}, "progress": "x", "id": "aaa"},
    {"status": "Extracting", "progressDetail": {"current": 5, "units": "s"}, "progress": "x", "id": "bbb"},
    {"status": "Pull complete", "progressDetail": {}, "id": "aaa"},
    {"status": "Digest: sha256:abc"},
]
PLAIN = "latest: Pulling from library/x\naaa: Pulling fs layer\nbbb: Waiting\naaa: Pull complete\nDigest: sha256:abc\n"
NARROW = (
    "latest: Pulling from library/x\n"
    "\n\x1b[1A\x1b[2K\raaa: Pulling fs layer \r\x1b[1B"
    "\n\x1b[1A\x1b[2K\rbbb: Waiting \r\x1b[1B"
    "\x1b[2A\x1b[2K\raaa: Downloading    100kB/1MB\r\x1b[2B"
    "\x1b[1A\x1b[2K\rbbb: Extracting 5 s\r\x1b[1B"
    "\x1b[2A\x1b[2K\raaa: Pull complete \r\x1b[2B"
    "Digest: sha256:abc\n"
)


def response(messages: list[dict[str, Any]]) -> tuple[Response, socket.socket]:
    """A response with these messages as its body, and the socket to close."""
    ours, theirs = socket.socketpair()
    body = "".join(json.dumps(m) + "\r\n" for m in messages).encode()
    theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    theirs.close()
    return HttpConnection(ours).response(), ours


def test_plain_lines_have_no_bars() -> None:
    answer, sock = response(MESSAGES)
    out = io.StringIO()
    progress.show(answer, out)
    sock.close()
    assert out.getvalue() == PLAIN


@pytest.mark.parametrize(("columns", "bar"), [(100, ""), (140, f"[{'=' * 5}>{' ' * 45}] ")])
def test_a_terminal_keeps_a_line_for_each_id(columns: int, bar: str) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    mode = termios.tcgetattr(slave)
    mode[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    answer, sock = response(MESSAGES)
    with open(slave, "w", encoding="ascii") as out:
        progress.show(answer, out, terminal=True)
        seen = ""
        while not seen.endswith("Digest: sha256:abc\n"):  # a terminal hands out what it has, in pieces
            seen += os.read(master, 65536).decode()
    os.close(master)
    sock.close()
    assert seen == NARROW.replace("   100kB/1MB", f"{bar}   100kB/1MB")


def test_a_failure_ends_the_stream_with_the_engines_words() -> None:
    answer, sock = response([MESSAGES[0], {"errorDetail": {"message": "it broke"}, "error": "it broke"}])
    with pytest.raises(progress.ProgressError) as caught:
        progress.show(answer, None)
    sock.close()
    assert caught.value.message == "it broke"
