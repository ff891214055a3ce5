"""sampan-runc without the start of an interpreter for each command: one process that forks for every call.

Started as `python -m tests.conformance.runtime.forking`. It reads {arguments, cwd, env, files} as a line of JSON, runs
the program's `main` in a child with a session of its own, and answers with the exit status.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

from sampan.runtime.__main__ import main
from sampan.runtime.cli.table import COMMANDS


class ForkingRuntime:
    """The caller's side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.conformance.runtime.forking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, arguments: list[str], *, cwd: str, env: dict[str, str], files: tuple[str, str, str]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        call = {"arguments": arguments, "cwd": cwd, "env": env, "files": files}
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=10)


def _serve() -> None:
    for module, *_ in COMMANDS.values():
        importlib.import_module(f"sampan.runtime.cli.{module}")
    for line in sys.stdin:
        call = json.loads(line)
        child = os.fork()
        if not child:
            _run(call)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(call: dict[str, Any]) -> None:
    status = 1
    try:
        signal.alarm(20)  # the limit of one call
        os.setsid()
        os.chdir(call["cwd"])
        for number, (name, flags) in enumerate(zip(call["files"], (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY))):
            fd = os.open(name, flags)
            os.dup2(fd, number)
            os.close(fd)
        sys.stdin = open(0, closefd=False)  # not what the parent has read ahead
        os.environ.clear()
        os.environ.update(call["env"])
        status = main(call["arguments"])
    finally:
        os._exit(status)


if __name__ == "__main__":
    _serve()
