"""How a build is shown: plain lines, a live picture on a terminal, raw JSON, or nothing.

Plain, as buildx prints it; a step keeps its number:

    #5 [build 2/3] RUN make
    #5 0.412 cc -c main.c
    #5 DONE 1.3s

On a terminal running steps are redrawn with their time and last lines of output. Both end with a summary of where the
time went. Shapes of the messages: engine/builder/classic/trace.py.
"""

from __future__ import annotations

import os
import time

from sampan.cli.progress import ProgressError
from sampan.client import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from sampan.client.http import Response

LOG_LINES = 6  # of a running step on a terminal
TAIL_LINES = 20  # of a failed one
REDRAW_S = 0.1
SLOWEST = 3


class DisplayedStep:
    """What is known of one step. Times in ns since the epoch, 0 for not yet."""

    def __init__(self, number: int, value: dict[str, Any]) -> None:
        self.number = number
        self.name = ""
        self.started = self.completed = 0
        self.cached = False
        self.error = ""
        self.statuses: dict[str, dict[str, Any]] = {}
        self.lines: list[str] = []
        self.partial = ""
        self.take(value)

    def take(self, value: dict[str, Any]) -> None:
        self.name = str(value["name"])
        self.started = int(value["started"] or self.started)
        self.completed = int(value["completed"])
        self.cached = bool(value["cached"])
        self.error = str(value["error"])

    def seconds(self, now_ns: int = 0) -> float:
        return max(0, (self.completed or now_ns or self.started) - self.started) / 1e9

    @property
    def running(self) -> bool:
        return bool(self.started) and not self.completed

    def output(self, text: str) -> list[str]:
        """Take output in; the lines that are complete now."""
        *lines, self.partial = (self.partial + text.replace("\r\n", "\n")).split("\n")
        self.lines += lines
        return lines


class Display:
    """Collects what a build says. Subclasses draw."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.steps: dict[str, DisplayedStep] = {}
        self.failure: dict[
            str, Any
        ] = {}  # key, lines, source and filename of what failed; ID of the files that were kept

    def step(self, value: dict[str, Any]) -> None:
        found = self.steps.get(value["key"])
        if found is None:
            found = self.steps[value["key"]] = DisplayedStep(len(self.steps) + 1, value)
            self.changed(found, new=True)
        else:
            found.take(value)
            self.changed(found, new=False)

    def status(self, value: dict[str, Any]) -> None:
        if (found := self.steps.get(value["key"])) is not None:
            found.statuses[value["id"]] = value
            self.part(found, value)

    def log(self, value: dict[str, Any]) -> None:
        if (found := self.steps.get(value["key"])) is not None:
            self.printed(found, found.output(value["text"]))

    def changed(self, step: DisplayedStep, *, new: bool) -> None: ...

    def part(self, step: DisplayedStep, value: dict[str, Any]) -> None: ...

    def printed(self, step: DisplayedStep, lines: list[str]) -> None: ...

    def warning(self, value: dict[str, Any]) -> None: ...

    def end(self, error: str) -> None: ...


class Plain(Display):
    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._shown: set[str] = set()
        self._warnings: list[str] = []

    def changed(self, step: DisplayedStep, *, new: bool) -> None:
        if step.started and step.name not in self._shown:
            self._shown.add(step.name)
            self._say(step, step.name)
        if not step.completed:
            return
        if step.partial:
            self.printed(step, step.output("\n"))
        if step.error:
            self._say(step, f"ERROR: {step.error}")
        else:
            self._say(step, "CACHED" if step.cached else f"DONE {step.seconds():.1f}s")
        self.out.write("\n")

    def part(self, step: DisplayedStep, value: dict[str, Any]) -> None:
        if value["completed_ns"]:
            took = max(0, value["completed_ns"] - value["started_ns"]) / 1e9
            self._say(step, f"{value['id']} {took:.1f}s done")

    def printed(self, step: DisplayedStep, lines: list[str]) -> None:
        since = max(0, time.time_ns() - step.started) / 1e9
        for line in lines:
            self._say(step, f"{since:.3f} {line}")

    def warning(self, value: dict[str, Any]) -> None:
        lines = value.get("ranges") or []
        where = f" (line {lines[0][0]})" if lines else ""
        self._warnings.append(f" - {value['rule']}: {value['message']}{where}")

    def end(self, error: str) -> None:
        for step in self.steps.values():
            if step.error and step.lines:
                self._tail(step)
        if self._warnings:
            noun = "warning" if len(self._warnings) == 1 else "warnings"
            self.out.write(
                f"\n {len(self._warnings)} {noun} found:\n" + "".join(f"{line}\n" for line in self._warnings)
            )
        if error:
            self.out.write(excerpt(self.failure))
        else:
            self.out.write(summary(list(self.steps.values())))
        self.out.flush()

    def _tail(self, step: DisplayedStep) -> None:
        self.out.write(f"------\n > {step.name}:\n")
        self.out.write("".join(f"{line}\n" for line in step.lines[-TAIL_LINES:]) + "------\n")

    def _say(self, step: DisplayedStep, text: str) -> None:
        self.out.write(f"#{step.number} {text}\n")
        self.out.flush()


class TerminalDisplay(Plain):
    """The terminal's picture: one line for each step, under a running one its last output. Redrawn in place."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._drawn = 0
        self._next_s = 0.0
        self._since_ns = time.time_ns()

    def changed(self, step: DisplayedStep, *, new: bool) -> None:
        self._draw(at_once=bool(step.completed))

    def part(self, step: DisplayedStep, value: dict[str, Any]) -> None:
        self._draw()

    def printed(self, step: DisplayedStep, lines: list[str]) -> None:
        self._draw()

    def end(self, error: str) -> None:
        self._draw(at_once=True, last=True)
        super().end(error)

    def _draw(self, *, at_once: bool = False, last: bool = False) -> None:
        now = time.monotonic()
        if now < self._next_s and not at_once:
            return
        self._next_s = now + REDRAW_S
        columns, rows = _size(self.out)
        picture = self._picture(columns - 1, None if last else rows - 2)
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        self.out.write(up + "".join(f"\x1b[2K{line}\n" for line in picture) + "\x1b[J")
        self.out.flush()
        self._drawn = len(picture)

    def _picture(self, columns: int, rows: int | None) -> list[str]:
        now_ns = time.time_ns()
        steps = [step for step in self.steps.values() if step.started]
        done = sum(1 for step in steps if step.completed)
        total = (
            max([s.completed or now_ns for s in steps], default=now_ns)
            - min([s.started for s in steps], default=now_ns)
        ) / 1e9
        lines = []
        for step in steps:
            mark = "CACHED" if step.cached else "ERROR" if step.error else "=>"
            took = f"{step.seconds(now_ns):.1f}s"
            name = f" {mark} {step.name}"[: max(10, columns - len(took) - 1)]
            lines.append(f"{name:<{max(0, columns - len(took))}}{took}")
            if step.running:
                lines += [f" => => {text}"[:columns] for text in (*_transfers(step), *step.lines[-LOG_LINES:])]
        if rows is not None and len(lines) > rows:
            lines = lines[-rows:]
        return [f"[+] Building {total:.1f}s ({done}/{len(steps)})", *lines]


class RawJson(Display):
    """Every message as it is."""


class Silent(Display):
    def changed(self, step: DisplayedStep, *, new: bool) -> None:
        return None


def chosen(name: str, out: TextIO) -> Display:
    """Return the display of a --progress value. Raises: ProgressError for an unknown one."""
    if name in ("", "auto"):
        name = "tty" if out.isatty() else "plain"
    kinds = {"plain": Plain, "tty": TerminalDisplay, "rawjson": RawJson, "quiet": Silent, "none": Silent}
    if name not in kinds:
        raise ProgressError(f"invalid progress type {name!r}: use auto, plain, tty, rawjson, quiet, none or classic")
    return kinds[name](out)


class BuildResult:
    """What came of it. image: its id; said: what the exporters said; answer: of a question about the Dockerfile."""

    def __init__(self) -> None:
        self.image = ""
        self.said: dict[str, str] = {}
        self.answer: dict[str, str] = {}


def show(response: Response, display: Display) -> BuildResult:
    """Draw the whole stream. Raises: ProgressError; `display.failure` has what is known of it."""
    result = BuildResult()
    for message in jsontext.stream(response.chunks()):
        failure = message.get("errorDetail") or message.get("error")
        if failure is not None:
            text = str(failure.get("message", "") if isinstance(failure, dict) else failure)
            display.end(text)
            raise ProgressError(text)
        if isinstance(display, RawJson):
            display.out.write(f"{jsontext.dumps(message)}\n")
        aux = message.get("aux") or {}
        match message.get("id"):
            case "moby.image.id":
                result.image = str(aux["ID"])
            case "sampan.build.failed":
                display.failure = aux
            case "sampan.build.answer":
                result.answer = aux
            case "sampan.build.result":
                result.said = aux
            case "sampan.build.trace":
                for kind, value in aux.items():
                    getattr(display, kind)(value)
    display.end("")
    return result


def summary(steps: list[DisplayedStep]) -> str:
    """Return where the time went: the wall clock, what the steps took together, the slowest of them."""
    done = [step for step in steps if step.completed and step.started]
    if not done:
        return ""
    wall = (max(step.completed for step in done) - min(step.started for step in done)) / 1e9
    spent = sum(step.seconds() for step in done)
    cached = sum(step.cached for step in done)
    gain = f", {spent - wall:.1f}s saved by running in parallel" if spent - wall > 0.05 else ""
    lines = [f"\n{len(done)} steps in {wall:.1f}s, {cached} cached{gain}\n"]
    slowest = sorted((step for step in done if not step.cached), key=DisplayedStep.seconds, reverse=True)[:SLOWEST]
    lines += [f"  {step.seconds():6.1f}s  {step.name}\n" for step in slowest if step.seconds() >= 0.05]
    return "".join(lines)


def excerpt(failure: dict[str, Any]) -> str:
    """Return the lines of the Dockerfile that a failure is about, with `>>>` before them; "" when it is about none."""
    lines = str(failure.get("source") or "").split("\n")
    marked = {n for first, last in failure.get("lines") or () for n in range(first, max(first, last) + 1)}
    if not marked or not lines:
        return ""
    first, last = max(1, min(marked) - 2), min(len(lines), max(marked) + 2)
    shown = [f" {n:3d} | {'>>>' if n in marked else '   '} {lines[n - 1]}" for n in range(first, last + 1)]
    rule = "-" * 20
    return "\n".join([f"{failure.get('filename') or 'Dockerfile'}:{min(marked)}", rule, *shown, rule, ""])


def _transfers(step: DisplayedStep) -> list[str]:
    """The parts of a step that are under way."""
    shown = []
    for value in step.statuses.values():
        if not value["completed_ns"]:
            total = f" / {value['total'] / 1e6:.1f}MB" if value["total"] else ""
            shown.append(f"{value['id']} {value['current'] / 1e6:.1f}MB{total}")
    return shown


def _size(out: TextIO) -> tuple[int, int]:
    try:
        size = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        return 80, 24
    return size.columns or 80, size.lines or 24
