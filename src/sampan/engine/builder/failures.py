"""A step that failed: what the doors need to tell the client, each in its own words."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.engine.builder.ops import Vertex
from sampan.errors import Internal


class StepFailed(Internal):
    """A RUN command ended with another status than 0, or could not be run at all.

    exit_status: as a shell counts (128 + signal), -1 when it never ran: `refusal` says why then, in Docker's words.
    process: its arguments. tail: the last lines of its output. image_id: an image of the file system as the step left it,
    when the build asked to keep that. oom_killed: the kernel ended it for want of memory.
    """

    def __init__(
        self,
        vertex: Vertex,
        process: Sequence[str],
        exit_status: int,
        *,
        tail: bytes = b"",
        refusal: str = "",
        oom_killed: bool = False,
    ) -> None:
        self.vertex = vertex
        self.process = tuple(process)
        self.exit_status = exit_status
        self.tail = tail
        self.refusal = refusal
        self.oom_killed = oom_killed
        self.image_id = ""
        self.ranges = vertex.label.ranges
        super().__init__(self._words())

    def _words(self) -> str:
        command = " ".join(self.process)
        reason = self.refusal or f"exit code: {self.exit_status}"
        if self.oom_killed:
            reason += ": it used more memory than it may (OOM killed)"
        return f'process "{command}" did not complete successfully: {reason}'


class NotAllowed(Internal):
    """A step wants what the build was not allowed: `network.host` or `security.insecure`."""

    status = 403

    def __init__(self, vertex: Vertex, message: str) -> None:
        self.vertex = vertex
        self.ranges = vertex.label.ranges
        super().__init__(message)
