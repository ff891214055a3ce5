"""What an image's history says of an instruction, in the words of both builders. Pure.

    buildkit   `RUN /bin/sh -c make # buildkit`, comment `buildkit.dockerfile.v0`
    classic    the command of the step's container: `/bin/sh -c make`, `/bin/sh -c #(nop)  ENV A=b`

Source: both builders of Docker Engine 28.5 as observed (Go's %v and %q of their values).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sampan.engine.builder.graph.values import HistoryEntry
from sampan.engine.builder.ops import Vertex
from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile.config import command_line
from sampan.spec.go_values import duration, quote
from sampan.spec.urls import masked_text

COMMENT = "buildkit.dockerfile.v0"
SHELL = ("/bin/sh", "-c")
NOP = "#(nop) "


def text(instruction: i.Instruction, config: Mapping[str, Any], *, classic: bool) -> str:
    """Return the text for an expanded instruction that changes the configuration only. config: what it has become."""
    match instruction:
        case i.Env(pairs=pairs) | i.Label(pairs=pairs):
            return f"{instruction.keyword} " + " ".join(f"{pair.key}={pair.value}" for pair in pairs)
        case i.Cmd(command=command) | i.Entrypoint(command=command):
            words = command_line(command, config, "classic" if classic else "buildkit")
            return f"{instruction.keyword} {_quoted_list(words)}"
        case i.Expose(ports=ports):
            return f"EXPOSE {' '.join(ports)}" if classic else f"EXPOSE [{' '.join(_numbered(ports))}]"
        case i.VolumeInstruction(paths=paths):
            return f"VOLUME [{' '.join(paths)}]"
        case i.User(user=user):
            return f"USER {user}"
        case i.Stopsignal(signal=signal):
            return f"STOPSIGNAL {signal}"
        case i.Shell(words=words):
            return f"SHELL [{' '.join(words)}]"
        case i.Maintainer(name=name):
            return f"MAINTAINER {name}"
        case i.Onbuild(expression=expression):
            return f"ONBUILD {expression}"
        case i.Healthcheck():
            return _health(instruction, classic=classic)
    raise AssertionError(f"{instruction.keyword} is no instruction of the configuration")


def _numbered(ports: Sequence[str]) -> list[str]:
    """Every port of every range, with its protocol."""
    found = []
    for port in ports:
        numbers, _, protocol = port.partition("/")
        first, _, last = numbers.rpartition(":")[2].partition("-")
        for number in range(int(first), int(last or first) + 1):
            found.append(f"{number}/{(protocol or 'tcp').lower()}")
    return found


def _health(check: i.Healthcheck, *, classic: bool) -> str:
    times = [check.interval_ns, check.timeout_ns, check.start_period_ns, check.start_interval_ns]
    spans = [duration(ns) for ns in times]
    if classic:
        return f"HEALTHCHECK &{{[{' '.join(check.test)}] {' '.join(spans)} {check.retries}}}"
    shown = " ".join(f'"{span}"' for span in spans)
    return f"HEALTHCHECK &{{{_quoted_list(check.test)} {shown} {_quoted_rune(check.retries)}}}"


def _quoted_list(words: Sequence[str]) -> str:
    return f"[{' '.join(quote(word) for word in words)}]"


def _quoted_rune(code: int) -> str:
    """Go's %q of a number: the character with this code."""
    char = chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"
    if char in "'":
        return "'\\''"
    inside = quote(char)[1:-1]
    return f"'{char}'" if char == '"' else f"'{inside}'"


def buildkit(created_by: str, vertex: Vertex | None = None) -> HistoryEntry:
    return HistoryEntry(created_by=created_by, comment=COMMENT, vertex=vertex)


def files_text(instruction: i.FilesInstruction) -> str:
    """Return COPY or ADD in BuildKit's words: the flags that it names, sources, heredocs, destination."""
    words = [instruction.keyword]
    if instruction.chown:
        words.append(f"--chown={instruction.chown}")
    if instruction.chmod:
        words.append(f"--chmod={instruction.chmod}")
    words += map(masked_text, instruction.sources)
    words += [f"<<{doc.name}" for doc in instruction.heredocs]
    return " ".join([*words, instruction.destination, "# buildkit"])


def classic_files_text(instruction: i.FilesInstruction) -> str:
    """Return COPY or ADD in the classic builder's words; `{}` is for what is known when the files are."""
    chown = f"--chown={instruction.chown} " if instruction.chown else ""
    return f"{NOP}{instruction.keyword} {chown}{{}} in {instruction.destination} "
