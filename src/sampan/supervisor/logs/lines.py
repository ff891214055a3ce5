"""Cut a byte stream into the records a log holds, a whole read at a time.

A record is a line; a line longer than 16 KiB becomes several records of which only the last ends the line, exactly
where Docker cuts it (its copier reads into a buffer of 16 KiB). The work is one `rfind` per 16 KiB, not one step per
line.

Not here: escaping, timestamps, files.
Source: observed on Docker Engine 28.5 (`json-file`, lines of 16 KiB - 1, 16 KiB, 40 KiB).
"""

from __future__ import annotations

LIMIT_BYTES = 16 * 1024


def split(data: bytes) -> tuple[list[tuple[bytes, bool]], bytes]:
    """Return `([(block, complete)], rest)`.

    A complete block is one or more whole lines, each shorter than 16 KiB, with its newlines. An incomplete block is a
    piece of 16 KiB of a longer line, without newline. `rest` is what must wait for more input (shorter than 16 KiB).
    """
    pieces: list[tuple[bytes, bool]] = []
    start = position = 0
    while True:
        newline = data.rfind(b"\n", position, position + LIMIT_BYTES)
        if newline >= 0:
            position = newline + 1
            continue
        if len(data) - position < LIMIT_BYTES:
            break
        if position > start:
            pieces.append((data[start:position], True))
        pieces.append((data[position : position + LIMIT_BYTES], False))
        position += LIMIT_BYTES
        start = position
    if position > start:
        pieces.append((data[start:position] if start or position < len(data) else data, True))
    return pieces, data[position:]
