"""The tour of README.md is run as it stands there: each command literally, in one shell, and what it prints is
compared.

What differs from run to run (ids, times, process numbers, step numbers of a build) is compared by form. A line `…` in
the README stands for any number of lines. The shell is bash without a terminal, and its standard input is empty.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import BIN, Engine, until
from tests.support.machine import lacks, leaves_nothing

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.usefixtures("root")]

ROOT = Path(__file__).resolve().parent.parent.parent
TOUR = Path("/var/tmp/tour")
PORT = 8080
PROMPT = "# "
ANYTHING = "…"

# Reads one command a line from descriptor 9, runs it in this shell, and says on a line of its own how it ended.
SHELL = 'while IFS= read -r -u 9 line; do eval "$line" 9<&- </dev/null; printf "\\n%s %s\\n" "$MARK" "$?"; done'
MARK = "the command of the tour has ended"
# What bash itself says about a background job that a signal has ended.
JOB = re.compile(r".*line \d+: +\d+ (Killed|Terminated) .*")

# Commands that change nothing: what they show (a reserve that fills, a status) may come a moment later.
LOOKS = re.compile(r"(sampan |docker )?ps ?")
LOOKS_AGAIN_S = 10

# In the README's text → what may stand in its place. Tried in this order at each point of a line.
FORMS = [
    (r"sha256:[0-9a-f]{8,64}", r"sha256:[0-9a-f]+"),
    (r"\b[0-9a-f]{64}\b", r"[0-9a-f]{64}"),
    (r"\b[0-9a-f]{12}\b", r"[0-9a-f]{12}"),
    (r"\b\d+\.\d+s\b", r"\d+\.\d+s"),
    (r"(?:\d+|Less than a) seconds?\b(?: ago)?", r"(?:\d+|Less than a) seconds?(?: ago)?"),
    (r"^#\d+ ", r"#\d+ "),
    (r"^ +\d+ ", r" *\d+ "),
    (r"  +", r" +"),
    (ANYTHING, r".*"),
]
TOKENS = re.compile("|".join(f"(?P<f{n}>{text})" for n, (text, _) in enumerate(FORMS)))


def pattern(line: str) -> re.Pattern[str]:
    """The form of one line that the README shows."""
    found, at = "", 0
    for token in TOKENS.finditer(line):
        found += re.escape(line[at : token.start()]) + FORMS[int(str(token.lastgroup)[1:])][1]
        at = token.end()
    return re.compile(found + re.escape(line[at:]) + r"\s*")


def agrees(shown: list[str], printed: list[str]) -> bool:
    """Whether what a command printed is what the README shows."""
    if not shown:
        return not printed
    if shown[0] == ANYTHING:
        return any(agrees(shown[1:], printed[n:]) for n in range(len(printed) + 1))
    return bool(printed) and pattern(shown[0]).fullmatch(printed[0]) is not None and agrees(shown[1:], printed[1:])


def tour() -> list[tuple[str, list[str]]]:
    """(command, lines shown after it) of every command in the README's code blocks, in order."""
    steps: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE):
        if not block.startswith(PROMPT):
            continue  # not a session in a shell
        for line in block.splitlines():
            if line.startswith(PROMPT):
                steps.append((line.removeprefix(PROMPT), []))
            else:
                steps[-1][1].append(line)
    return steps


class Shell:
    """One bash; `run` gives it a command and returns (exit code, lines printed to both streams)."""

    def __init__(self) -> None:
        # bash reads its commands from descriptor 9, so that no command can read the rest of the tour as its input
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-c", f"exec 9<&0 </dev/null; MARK={shlex.quote(MARK)}; {SHELL}"],
            cwd=ROOT,
            env={**{k: v for k, v in os.environ.items() if k != "LC_ALL"}, "LC_COLLATE": "C"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, list[str]]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        printed: list[str] = []
        for line in self.process.stdout:
            if line.startswith(MARK):
                while printed and not printed[-1]:  # the line break before the mark
                    printed.pop()
                return int(line.removeprefix(MARK)), [line for line in printed if not JOB.fullmatch(line)]
            printed.append(line.rstrip("\n"))
        raise AssertionError(f"the shell has ended in {command!r}: {printed}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):  # not read to its end: the daemon has it, too
            if pipe is not None:
                pipe.close()


@pytest.fixture
def shell() -> Iterator[Shell]:
    """A shell in the checkout; what the tour has made is gone afterwards, however far it came."""
    for program in ("bash", "curl", "make"):
        if shutil.which(program) is None:
            lacks(f"{program} is not installed")
    if TOUR.exists():
        lacks(f"{TOUR} is in use")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            lacks(f"port {PORT} is in use")
    bash = Shell()
    try:
        yield bash
    finally:
        bash.close()
        if TOUR.exists():
            clear_away()


def clear_away() -> None:
    """End the tour's engine with its containers: kill its daemon, and have one of ours remove what it left."""
    engine = Engine(TOUR)
    for pid, title in engine.pids().items():
        if title.startswith("sampand"):
            subprocess.run(["kill", "-9", str(pid)], check=False)
    engine.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("client", ["sampan", "docker"])
def test_the_tour_of_the_readme(shell: Shell, client: str) -> None:
    """docker: with the real client in place of ours, as the README says; but not for builds, which show steps
    differently.
    """
    if shutil.which(client, path=f"{BIN}:{os.environ['PATH']}") is None:
        lacks(f"{client} is not installed")
    steps = [(re.sub(r"\bsampan (?!build)", f"{client} ", command), shown) for command, shown in tour()]
    assert len(steps) > 15
    with leaves_nothing():
        for command, shown in steps:
            code, printed = shell.run(command)
            deadline = time.monotonic() + LOOKS_AGAIN_S
            while LOOKS.match(command) and not agrees(shown, printed) and time.monotonic() < deadline:
                time.sleep(0.1)
                code, printed = shell.run(command)
            assert code == 0, (command, code, printed)
            assert agrees(shown, printed), f"{command}\n\nREADME.md:\n{_text(shown)}\n\nprinted:\n{_text(printed)}"
    assert not TOUR.exists()
    until(lambda: not Engine(TOUR).pids(), 10, "the supervisor ends after its daemon")


def _text(lines: list[str]) -> str:
    return "\n".join(lines) or "(nothing)"


def test_the_comparison_sees_differences() -> None:
    assert agrees(["a", "…", "#3 DONE 0.1s"], ["a", "x", "y", "#4 DONE 10.0s"])
    assert agrees(["b0f7a0af9174   2 seconds ago"], ["0123456789ab Less than a second ago  "])
    assert agrees(["    4 ps"], ["   17 ps"])
    assert not agrees(["<h1>hello</h1>"], ["<h1>built</h1>"])
    assert not agrees(["hi"], ["hi", "there"])
    assert not agrees(["hi"], [])
    assert not agrees([], ["a warning"])
    assert not agrees(["sha256:0123456789ab"], ["sha512:0123456789ab"])
