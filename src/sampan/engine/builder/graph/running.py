"""RUN as a vertex: its arguments, heredocs, environment and mounts. Pure.

    RUN <<EOF            the heredoc's text is what the shell is given
    RUN <<EOF  (#!…)     the heredoc is a script in /dev/pipes, executed
    RUN a <<EOF | b      the whole text goes to the shell, which reads the heredoc itself

Source: Dockerfile reference, RUN; BuildKit in Docker Engine 28.5 as observed.
"""

from __future__ import annotations

import itertools
import posixpath

from sampan.engine.builder import privileges
from sampan.engine.builder.graph import args, history, names, reach
from sampan.engine.builder.graph.stage import DispatchState
from sampan.engine.builder.graph.values import HistoryEntry
from sampan.engine.builder.ops import FileOp, Mkfile, RunMount, RunOp, ScratchOp, Vertex, VertexLabel
from sampan.spec.dockerfile import config
from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.mounts import MountFlag

PIPES = "/dev/pipes"
SANDBOX_HOSTNAME, CACHE_NAMESPACE = "BUILDKIT_SANDBOX_HOSTNAME", "BUILDKIT_CACHE_MOUNT_NS"
SSH_SOCKET = "/run/buildkit/ssh_agent."


def run(stage: DispatchState, instruction: i.Run) -> None:
    request = stage.common.request
    words, script = command(stage, instruction)
    agent = itertools.count()  # sockets are numbered among themselves
    mounts = [mount(stage, instruction, one, next(agent) if one.type == "ssh" else 0) for one in instruction.mounts]
    env = stage.scope.run_env()
    agents = [one.target for one in mounts if one.kind == "ssh"]
    if agents and not any(entry.startswith("SSH_AUTH_SOCK=") for entry in env):
        env.append(f"SSH_AUTH_SOCK={agents[0]}")
    stage.state = vertex = RunOp(
        base=stage.state,
        args=tuple(words),
        env=tuple(env),
        cwd=stage.cwd,
        user=stage.config.get("User") or "",
        mounts=(*script, *mounts),
        network=network(stage, instruction),
        security=security(stage, instruction),
        hostname=_own_argument(stage, SANDBOX_HOSTNAME) or request.hostname,
        extra_hosts=request.extra_hosts,
        epoch_s=request.epoch_s,
        limits=request.limits,
        platform=stage.platform,
        proxy_env=args.proxy_env(request.build_args),
        label=stage.label(instruction),
        no_cache=stage.no_cache,
    )
    seen = [*stage.scope.run_prefix(), *words]
    if stage.common.classic:
        entry = HistoryEntry(created_by=" ".join(seen), vertex=vertex)
    else:
        entry = history.buildkit(f"RUN {' '.join(seen)} # buildkit", vertex)
    stage.did(instruction, entry, seen)


def command(stage: DispatchState, instruction: i.Run) -> tuple[list[str], list[RunMount]]:
    """Return the arguments, and the mount that holds a script if the heredoc is one. Raises: DockerfileError."""
    program, script = instruction.program()
    dialect: config.DialectName = "classic" if stage.common.classic else "buildkit"
    words = config.command_line(program, stage.config, dialect)
    if not words and stage.common.classic:  # its container runs what the image says
        words = [*(stage.config.get("Entrypoint") or ()), *(stage.config.get("Cmd") or ())]
        if not words:
            raise DockerfileError("no command specified", [instruction.range])
    if not words:
        raise DockerfileError("failed to marshal LLB definition: arguments are required")
    if script is None:
        return words, []
    made = Mkfile(path="/", name=script.name, data=script.text().encode(), chmod="0755")
    file = FileOp(base=ScratchOp(), actions=(made,), label=VertexLabel(name=names.INLINE, internal=True))
    return words, [RunMount(kind="bind", target=PIPES, source=file, path="/")]


def mount(stage: DispatchState, instruction: i.Run, wanted: MountFlag, number: int) -> RunMount:
    """Return one --mount. number: of an agent's socket. Raises: DockerfileError."""
    at_cwd = wanted.target or wanted.type in ("bind", "cache", "tmpfs")
    target = posixpath.normpath(posixpath.join("/", stage.cwd, wanted.target)) if at_cwd else ""
    if target in ("/", "//"):
        raise DockerfileError('invalid mount target "/"', [instruction.range])
    uid, gid = wanted.uid or 0, wanted.gid or 0
    match wanted.type:
        case "bind":
            return RunMount(
                kind="bind",
                target=target,
                source=source(stage, instruction, wanted),
                path=wanted.source or "/",
                writable=not wanted.readonly,
            )
        case "cache":
            return RunMount(
                kind="cache",
                target=target,
                source=source(stage, instruction, wanted) if wanted.from_ else None,
                path=wanted.source or "/",
                read_only=wanted.readonly,
                id=_cache_id(stage, wanted.id or target),
                sharing=wanted.sharing or "shared",
                mode=wanted.mode,
                uid=uid,
                gid=gid,
            )
        case "tmpfs":
            return RunMount(kind="tmpfs", target=target, writable=True, size_bytes=wanted.size_bytes, mode=wanted.mode)
        case "secret":
            id_ = wanted.id or wanted.source or posixpath.basename(wanted.target)
            if not target and wanted.env is None:
                target = f"/run/secrets/{posixpath.basename(id_)}"
            return RunMount(
                kind="secret",
                target=target,
                id=id_,
                env=wanted.env or "",
                required=wanted.required,
                mode=wanted.mode,
                uid=uid,
                gid=gid,
            )
        case "ssh":
            return RunMount(
                kind="ssh",
                target=target or f"{SSH_SOCKET}{number}",
                id=wanted.id or "default",
                required=wanted.required,
                mode=wanted.mode,
                uid=uid,
                gid=gid,
            )
    raise DockerfileError(f'unsupported mount type "{wanted.type}"', [instruction.range])


def _own_argument(stage: DispatchState, name: str) -> str:
    """A build argument that BuildKit itself reads; the classic builder does not know it."""
    return "" if stage.common.classic else stage.common.request.build_args.get(name) or ""


def _cache_id(stage: DispatchState, id: str) -> str:
    namespace = _own_argument(stage, CACHE_NAMESPACE)
    return f"{namespace}/{id}" if namespace else id


def source(stage: DispatchState, instruction: i.Run, wanted: MountFlag) -> Vertex:
    """Return the vertex behind `from=`, or the build context."""
    path = wanted.source or "/"
    if not wanted.from_:
        return stage.common.main(path)
    return stage.common.source(reach.FromFlag(wanted.from_, instruction.range, False), stage.index, path)


def network(stage: DispatchState, instruction: i.Run) -> str:
    """RUN's own network before the build's. Raises: NotAllowed."""
    _allowed(stage, "network", instruction.network)
    if instruction.network not in ("", "default"):
        return instruction.network
    return stage.common.request.network or "default"


def security(stage: DispatchState, instruction: i.Run) -> str:
    """Raises: NotAllowed."""
    _allowed(stage, "security", instruction.security)
    return instruction.security


def _allowed(stage: DispatchState, flag: str, value: str) -> None:
    request = stage.common.request
    privileges.check_flag(
        flag,
        value,
        classic=stage.common.classic,
        network=request.network,
        entitlements=request.entitlements,
    )
