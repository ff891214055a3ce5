"""The `json-file` format: one JSON object per record, byte for byte as Docker writes it.

    {"log":"hello\\n","stream":"stdout","attrs":{"tag":"x"},"time":"2026-01-02T03:04:05.123456789Z"}

Writing escapes and stamps a whole read at once: every record of one read carries the same time. Which characters need
escaping is found by deleting all others (`bytes.translate`), then each one present costs one `bytes.replace`. A byte
that is no UTF-8 becomes an escaped lone surrogate (PEP 383), which Docker and all of Go read as the U+FFFD that Docker
itself writes, and from which decoders.py makes the byte again.

Source: observed on Docker Engine 28.5; Go's encoding/json (HTML-safe escapes, RFC3339Nano without trailing zeros).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from sampan.spec.times import rfc3339_nano
from sampan.supervisor.logs.record import Partial

_UNESCAPED = bytes(c for c in range(256) if (c >= 0x20 and c not in b'\\"<>&') or c == 0x0A)
_ESCAPES = {c: b"\\u%04x" % c for c in (*range(0x20), *b"<>&")} | {0x22: b'\\"', 0x0D: b"\\r"}


def escape(text: bytes) -> bytes:
    """Escape as Docker's JSON log does, newlines excepted."""
    special = text.translate(None, _UNESCAPED)
    if special:
        present = set(special)
        if 0x5C in present:  # first: the other escapes contain it
            text = text.replace(b"\\", b"\\\\")
            present.discard(0x5C)
        for c in present:
            text = text.replace(bytes((c,)), _ESCAPES[c])
    return text if text.isascii() else _escape_unicode(text)


def _escape_unicode(text: bytes) -> bytes:
    if b"\xe2\x80" in text:
        text = text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    try:
        text.decode()
    except UnicodeDecodeError:
        return text.decode("utf-8", "surrogateescape").encode("utf-8", "backslashreplace")  # in C, both
    return text


def _attributes(attrs: Mapping[str, str]) -> bytes:
    pairs = (
        f"{json.dumps(k, ensure_ascii=False)}:{json.dumps(v, ensure_ascii=False)}" for k, v in sorted(attrs.items())
    )
    text = "{" + ",".join(pairs) + "}"
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode("utf-8", "replace")


class JsonFile:
    """Format of one container's log: `attrs` go into every record."""

    def __init__(self, attrs: Mapping[str, str]) -> None:
        extra = b',"attrs":' + _attributes(attrs) if attrs else b""
        self._middle = {s: f'","stream":"{s}"'.encode() + extra + b',"time":"' for s in ("stdout", "stderr")}

    def render(self, stream: str, block: bytes, time_ns: int, partial: Partial | None) -> bytes:
        end = self._middle[stream] + rfc3339_nano(time_ns).encode() + b'"}\n'
        if partial:
            return b'{"log":"' + escape(block) + (b"\\n" if partial.last else b"") + end
        tail = b"\\n" + end
        return b'{"log":"' + escape(block[:-1]).replace(b"\n", tail + b'{"log":"') + tail

    def boundary(self, block: bytes, wanted: int) -> int:
        return block.index(b"\n", wanted - 1) + 1
