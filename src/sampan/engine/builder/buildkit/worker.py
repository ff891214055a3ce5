"""What this builder says of itself: platforms, limits, abilities. Computed, no state.

Source: what Docker Engine 28.5.2 answers to ListWorkers, Info and Ping; its defaults for the build cache.
"""

from __future__ import annotations

import math
import os
from functools import lru_cache

from sampan.engine.builder.buildkit.protos import gateway_pb2, ops_pb2, worker_pb2
from sampan.engine.platforms import Platform

PACKAGE = "github.com/moby/buildkit"
VERSION = "v0.0.0+unknown"
_DAY_NS = 24 * 3600 * 10**9
_TEMPORARY = "type==source.local,type==exec.cachemount,type==source.git.checkout"
_LEVELS = (
    ("v2", {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    ("v3", {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
    ("v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)
_FRONTEND_CAPS = """
    frontend.caps frontend.inputs gateway.evaluate gateway.solve.evaluate gateway.solve.metadata gateway.warnings
    importcaches proto.refarray readdir readfile reference.output resolveimage resolveimage.resolvemode return returnmap
    solve.base source.metaresolver statfile
"""
_LLB_CAPS = """
    constraints exporter.image.annotations exporter.multiple exporter.sourcedateepoch gc.freespacefilter history.filter
    meta.description meta.ignorecache platform source.git source.git.checksum source.git.fullurl source.git.httpauth
    source.git.keepgitdir source.git.mountsshsock source.git.subdir source.http source.http.checksum source.http.perm
    source.image source.image.resolvemode source.local source.local.differ source.local.excludepatterns
    source.local.followpaths source.local.includepatterns source.local.sessionid source.local.sharedkeyhint
    source.local.unique source.ocilayout
"""
_LLB_DISABLED = ("diffop", "mergeop")


@lru_cache
def platforms() -> tuple[Platform, ...]:
    """Return what can be built for here, best first: the machine's own, its levels, its 32-bit relative."""
    machine = os.uname().machine
    if machine == "aarch64":
        return (Platform("linux", "arm64"),)
    if machine != "x86_64":
        return (Platform("linux", machine),)
    found = [Platform("linux", "amd64")]
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = next((set(line.split()) for line in file if line.startswith("flags")), set())
    for level, needed in _LEVELS:
        if not needed <= flags:
            break
        found.append(Platform("linux", "amd64", level))
    return (*found, Platform("linux", "386"))


def record(data_root: str, id: str, host_gateway: str) -> worker_pb2.WorkerRecord:
    """Return the one worker. host_gateway: the address of the host on the default bridge, "" for none."""
    return worker_pb2.WorkerRecord(
        ID=id,
        Labels={"org.mobyproject.buildkit.worker.moby.host-gateway-ip": host_gateway} if host_gateway else {},
        platforms=[
            ops_pb2.Platform(OS=one.os, Architecture=one.architecture, Variant=one.variant) for one in platforms()
        ],
        GCPolicy=policies(data_root),
        BuildkitVersion=worker_pb2.BuildkitVersion(package=PACKAGE, version=VERSION + "-moby"),
    )


def policies(data_root: str) -> list[worker_pb2.GCPolicy]:
    """Return how the cache is kept small, most dispensable things first."""
    disk = os.statvfs(data_root)
    total = disk.f_blocks * disk.f_frsize

    def share(percent: int) -> int:
        return (total * percent // 100 // 2**30 + 1) * 10**9

    reserved, most, free = share(10), share(80), share(20)
    golden = (1 + math.sqrt(5)) / 2
    temporary = max(512 * 10**6, round(reserved / 100 * math.e * math.pi * golden))
    policy = worker_pb2.GCPolicy
    whole = policy(reservedSpace=reserved, maxUsedSpace=most, minFreeSpace=free)
    aged, last = policy(keepDuration=60 * _DAY_NS), policy(all=True)
    aged.MergeFrom(whole)
    last.MergeFrom(whole)
    return [policy(filters=[_TEMPORARY], keepDuration=2 * _DAY_NS, maxUsedSpace=temporary), aged, whole, last]


def abilities() -> gateway_pb2.PongResponse:
    """Return what a client may ask of the gateway and put into a definition."""
    cap = gateway_pb2.APICap
    reason = "only enabled with containerd image store backend"
    return gateway_pb2.PongResponse(
        FrontendAPICaps=[cap(ID=id, Enabled=True) for id in _FRONTEND_CAPS.split()],
        LLBCaps=[
            *(cap(ID=id, Enabled=True) for id in _LLB_CAPS.split()),
            *(cap(ID=id, DisabledReasonMsg=reason) for id in _LLB_DISABLED),
        ],
    )
