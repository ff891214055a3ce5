"""Whether and when a container that ended starts again. Pure.

Docker's rule: the first delay is 100 ms, each further one twice the last up to one minute; a run of ten
seconds or more begins anew at 100 ms.

Source: docs.docker.com, "Start containers automatically".
"""

from __future__ import annotations

import errno

from sampan.engine.store_file import DiskFull
from sampan.errors import NO_ROOM
from sampan.spec.engine_api.container import RestartPolicy

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 60.0
STEADY_RUN_S = 10.0
_PASSING = NO_ROOM | {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}


def wants_restart(policy: RestartPolicy, *, exit_status: int, manually_stopped: bool, restart_count: int) -> bool:
    """Tell whether the policy starts the container again after this exit."""
    if manually_stopped:
        return False
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.name == "on-failure":
        return exit_status != 0 and (policy.maximum_retry_count == 0 or restart_count < policy.maximum_retry_count)
    return False


def wants_start_at_boot(
    policy: RestartPolicy, *, manually_stopped: bool, was_active: bool, exit_status: int, restart_count: int
) -> bool:
    """Tell whether the container starts when the daemon does and its task is gone (a reboot, for example).

    `always` starts even what a user had stopped; `unless-stopped` does not. `on-failure` goes on where it was.
    """
    if policy.name == "always":
        return True
    if policy.name == "unless-stopped":
        return not manually_stopped
    if policy.name == "on-failure":
        return was_active and wants_restart(
            policy, exit_status=exit_status, manually_stopped=manually_stopped, restart_count=restart_count
        )
    return False


def passes(error: BaseException | None) -> bool:
    """Tell whether a start failed for something that passes (a full disk, no memory, no descriptors): the policy's
    next attempt may succeed.
    """
    while error is not None:
        if isinstance(error, DiskFull) or getattr(error, "errno", 0) in _PASSING:
            return True
        error = error.__cause__
    return False


def next_delay_s(previous_s: float, run_s: float) -> float:
    """Return the delay before the next start. previous_s: the last delay, 0 when there was none."""
    if previous_s <= 0 or run_s >= STEADY_RUN_S:
        return FIRST_DELAY_S
    return min(previous_s * 2, LONGEST_DELAY_S)
