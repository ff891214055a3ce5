"""`sampan update`."""

from __future__ import annotations

from sampan.cli import values
from sampan.cli.container import config
from sampan.cli.session import CommandError
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

USAGE = "[OPTIONS] CONTAINER [CONTAINER...]"
ARGS = (1, None)
PARSERS = {"memory-swap": values.size_or_unlimited}
FLAGS = """
      --blkio-weight uint16        Relative block IO weight between 10 and 1000; 0 disables it (default 0)
      --cpu-period int             CFS period of the CPU limit, in microseconds
      --cpu-quota int              CFS quota of the CPU limit, in microseconds
      --cpu-rt-period int          Real-time period in microseconds
      --cpu-rt-runtime int         Real-time runtime in microseconds
  -c, --cpu-shares int             Relative CPU weight
      --cpus decimal               Number of CPUs
      --cpuset-cpus string         CPUs that may be used (0-3, 0,1)
      --cpuset-mems string         Memory nodes that may be used (0-3, 0,1)
    ! --kernel-memory bytes        Kernel memory limit
  -m, --memory bytes               Memory limit
      --memory-reservation bytes   Soft memory limit
      --memory-swap bytes          Limit of memory and swap together: -1 for unlimited swap
      --pids-limit int             Limit of processes (-1 for unlimited)
      --restart string             What to do when the container exits
"""
NUMBERS = {
    "BlkioWeight": "blkio-weight", "CpuShares": "cpu-shares", "Memory": "memory", "NanoCpus": "cpus",
    "CpuPeriod": "cpu-period", "CpuQuota": "cpu-quota", "CpuRealtimePeriod": "cpu-rt-period",
    "CpuRealtimeRuntime": "cpu-rt-runtime", "MemoryReservation": "memory-reservation", "MemorySwap": "memory-swap",
}  # fmt: skip


def run(cli: Session, opts: Options, args: list[str]) -> int:
    if not opts.given:
        raise CommandError("you must provide one or more flags when using this command")
    body: dict[str, object] = {key: opts.number(flag) for key, flag in NUMBERS.items()}
    body |= {"CpusetCpus": opts.text("cpuset-cpus"), "CpusetMems": opts.text("cpuset-mems")}
    body["PidsLimit"] = opts.number("pids-limit") if opts.changed("pids-limit") else None
    try:
        body["RestartPolicy"] = config.restart_policy(opts.text("restart"))
    except ValueError as e:
        raise CommandError(str(e)) from e
    warnings: list[str] = []

    def update(name: str) -> None:
        warnings.extend(cli.engine.post(f"/containers/{quoted(name)}/update", body).get("Warnings") or ())

    try:
        return cli.for_each(args, update)
    finally:
        if warnings:
            cli.out("\n".join(warnings))
