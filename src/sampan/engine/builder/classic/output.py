"""The classic builder's words: what a build says while it goes, as the messages of its JSON stream. Pure.

    Step 2/3 : RUN make
     ---> Running in 1f2e3d4c5b6a
    …output…
     ---> Removed intermediate container 1f2e3d4c5b6a
     ---> 0a1b2c3d4e5f
    Successfully built 0a1b2c3d4e5f

Source: observed on Docker Engine 28.5.2, `POST /build` with version=1.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Message = Mapping[str, Any]
HELD_BYTES = 2 * 1024 * 1024
RED, PLAIN = "\x1b[91m", "\x1b[0m"


class ClassicOutput:
    """Sends messages in Docker's order. quiet: nothing but the id, unless the build fails; then all of it at once.

    remove: say of every step that its container is gone (`rm`, the default). room: waits until the client has read.
    """

    def __init__(
        self,
        send: Callable[[Message], None],
        *,
        quiet: bool = False,
        remove: bool = True,
        room: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._send = send
        self._quiet = quiet
        self._remove = remove
        self._room = room
        self._held: deque[Message] = deque()
        self._held_bytes = 0
        self._running = ""
        self.begun = False  # a step has been named

    def line(self, text: str) -> None:
        self._say({"stream": text})

    def step(self, number: int, total: int, text: str) -> None:
        self.begun = True
        self.line(f"Step {number}/{total} : {text}")
        self.line("\n")

    def triggers(self, count: int) -> None:
        """Say that the base image's ONBUILD instructions follow."""
        self.line(f"# Executing {count} build trigger")
        if count > 1:
            self.line("s")
        self.line("\n")

    def running(self) -> None:
        """Say that a step begins; it is named like the container that Docker would have made."""
        self._running = os.urandom(6).hex()
        self.line(f" ---> Running in {self._running}\n")

    def removed(self) -> None:
        if self._running and self._remove:
            self.line(f" ---> Removed intermediate container {self._running}\n")
        self._running = ""

    def cached(self) -> None:
        self.line(" ---> Using cache\n")

    def result(self, image_id: str) -> None:
        self.line(f" ---> {short(image_id)}\n")

    def output(self, stream: int, data: bytes) -> None:
        """Pass on what a RUN step wrote; standard error is red."""
        text = data.decode(errors="replace")
        self.line(f"{RED}{text}{PLAIN}" if stream == 2 else text)

    def image(self, image_id: str) -> None:
        """Say which image a complete stage is."""
        self._say({"aux": {"ID": image_id}})

    def unused(self, names: list[str]) -> None:
        self.line(f"[Warning] One or more build-args [{' '.join(names)}] were not consumed\n")

    def built(self, image_id: str) -> None:
        self.line(f"Successfully built {short(image_id)}\n")
        if self._quiet:
            self._send({"stream": f"{image_id}\n"})

    def tagged(self, name: str) -> None:
        self.line(f"Successfully tagged {name}\n")

    def passed_on(self, message: Message) -> None:
        """Pass on a message of a pull."""
        self._say(message)

    def failed(self) -> None:
        """Send all that was held back: the build has failed."""
        for message in self._held:
            self._send(message)
        self._held.clear()

    async def room(self) -> None:
        """Wait until more may be said."""
        if self._room is not None and not self._quiet:
            await self._room()

    def _say(self, message: Message) -> None:
        if not self._quiet:
            self._send(message)
            return
        self._held.append(message)
        self._held_bytes += len(message.get("stream") or ())
        while self._held_bytes > HELD_BYTES and len(self._held) > 1:  # its end says why a build failed
            self._held_bytes -= len(self._held.popleft().get("stream") or ())


def short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]
