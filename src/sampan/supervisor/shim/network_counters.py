"""Interface counters of a process's network namespace, from /proc/<pid>/net/dev. Source: proc(5)."""

from __future__ import annotations

_COLUMNS = (
    ("rx_bytes", 0),
    ("rx_packets", 1),
    ("rx_errors", 2),
    ("rx_dropped", 3),
    ("tx_bytes", 8),
    ("tx_packets", 9),
    ("tx_errors", 10),
    ("tx_dropped", 11),
)


def parse(text: str) -> dict[str, dict[str, int]]:
    """{interface: {"rx_bytes", …}} without the loopback."""
    interfaces: dict[str, dict[str, int]] = {}
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(":")
        values = numbers.split()
        if name.strip() != "lo" and len(values) >= 12:
            interfaces[name.strip()] = {key: int(values[column]) for key, column in _COLUMNS}
    return interfaces


def read(pid: int) -> dict[str, dict[str, int]]:
    try:
        with open(f"/proc/{pid}/net/dev") as file:
            return parse(file.read())
    except OSError:  # the process has just ended
        return {}
