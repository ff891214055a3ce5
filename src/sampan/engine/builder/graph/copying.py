"""COPY and ADD as a vertex: which trees, which paths of them, where to, whose. Pure.

    COPY src… dest                the build context
    COPY --from=x                 a stage, an image, a named context
    ADD url, ADD repo.git         downloads and checkouts
    COPY <<EOF dest               a text of the Dockerfile

Source: Dockerfile reference, ADD and COPY; both builders of Docker Engine 28.5 as observed.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from sampan.engine.builder.graph import contexts, history, reach
from sampan.engine.builder.graph.stage import DispatchState
from sampan.engine.builder.graph.values import HistoryEntry
from sampan.engine.builder.ops import Copy, FileOp, Mkfile, Owner, Vertex
from sampan.errors import InvalidArgument
from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.urls import masked_text


def copy(stage: DispatchState, instruction: i.FilesInstruction) -> None:
    classic = stage.common.classic
    label = stage.label(instruction)
    copies = list(_copies(stage, instruction, label.name))
    stage.state = vertex = FileOp(
        base=stage.state,
        actions=(*copies, *_documents(stage, instruction)),
        link=instruction.link,
        epoch_s=stage.common.request.epoch_s,
        label=label,
        no_cache=stage.no_cache,
    )
    if not classic:
        stage.did(instruction, history.buildkit(history.files_text(instruction), vertex))
        return
    text = history.classic_files_text(instruction)
    if not copies:
        text = text.replace("{}", " ".join(f"<<{doc.name}" for doc in instruction.heredocs))
    words = [*stage.shell, text]
    stage.did(instruction, HistoryEntry(created_by=" ".join(words), vertex=vertex, copied=tuple(copies)), words)


def _copies(stage: DispatchState, instruction: i.FilesInstruction, name: str) -> Iterator[Copy]:
    """The copies: sources of one tree together, as far as their order allows. Raises: DockerfileError."""
    remote = [contexts.is_git(source) or contexts.is_url(source) for source in instruction.sources]
    if isinstance(instruction, i.Add) and instruction.checksum and not all(remote):
        raise DockerfileError("checksum requires HTTP(S) or Git sources", [instruction.range])
    if isinstance(instruction, i.CopyInstruction):
        _check_paths(stage, instruction)
    apart = not _is_directory(instruction.destination)  # several to one name: the last one stays
    group: list[str] = []
    for source in instruction.sources:
        if isinstance(instruction, i.Add) and (contexts.is_git(source) or contexts.is_url(source)):
            if group:
                yield _local(stage, instruction, group)
                group = []
            yield _remote(stage, instruction, source, name)
        elif not stage.common.classic and (apart or _is_pattern(source)):
            if group:
                yield _local(stage, instruction, group)
                group = []
            yield _local(stage, instruction, [source], required=not _is_pattern(source))
        else:
            group.append(source)
    if group:
        yield _local(stage, instruction, group)


def _check_paths(stage: DispatchState, instruction: i.CopyInstruction) -> None:
    """Refuse what only ADD takes, and in the classic dialect what lies above the context. Raises: DockerfileError."""
    for source in instruction.sources:
        if contexts.is_url(source):
            words = "source can't be a URL for COPY"
            raise DockerfileError(words, [instruction.range], classic=f"COPY failed: {words}")
        if stage.common.classic and not instruction.from_ and posixpath.normpath(source).split("/")[0] == "..":
            words = f"COPY failed: forbidden path outside the build context: {source} ()"
            raise DockerfileError(words, [instruction.range])


def _is_pattern(source: str) -> bool:
    return any(char in source for char in "*?[")


def _local(stage: DispatchState, instruction: i.FilesInstruction, sources: list[str], *, required: bool = True) -> Copy:
    """A copy from the context or from what --from names."""
    tree: Vertex | None = None
    for source in sources:
        path = _used(source)
        if isinstance(instruction, i.CopyInstruction) and instruction.from_:
            wanted = reach.FromFlag(instruction.from_, instruction.range, True)
            tree = stage.common.source(wanted, stage.index, path)
        else:
            tree = stage.common.main(path)
    assert tree is not None
    unpack = isinstance(instruction, i.Add) and instruction.unpack is not False
    return Copy(
        source=tree,
        patterns=tuple(sources),
        dest=destination(stage, instruction),
        owner=owner(instruction.chown, classic=stage.common.classic),
        chmod=instruction.chmod,
        unpack=unpack,
        parents=isinstance(instruction, i.CopyInstruction) and instruction.parents,
        exclude=instruction.exclude,
        required=required,
        replaces=stage.common.classic,
    )


def _used(source: str) -> str:
    """The part of a source that is no pattern: what the client has to send."""
    used = []
    for part in source.split("/"):
        if _is_pattern(part):
            break
        used.append(part)
    return "/".join(used)


def _remote(stage: DispatchState, instruction: i.Add, source: str, name: str) -> Copy:
    """A copy from a checkout or a download, which is called as the step is. Raises: DockerfileError."""
    tree: Vertex
    if contexts.is_git(source):
        keep = instruction.keep_git_dir
        tree = contexts.git(source, keep_git_dir=keep, checksum=instruction.checksum, name=name)
        patterns: tuple[str, ...] = ("/",)
    else:
        tree = contexts.http(source, checksum=instruction.checksum, name=name)
        if stage.common.classic and instruction.destination.endswith("/") and contexts.unnamed(source):
            raise DockerfileError(
                f"ADD failed: cannot determine filename for source {masked_text(source)}", [instruction.range]
            )
        patterns = (tree.filename,)
    return Copy(
        source=tree,
        patterns=patterns,
        dest=destination(stage, instruction),
        owner=owner(instruction.chown, classic=stage.common.classic) or Owner(user="0", group="0"),
        chmod=instruction.chmod,
        unpack=bool(instruction.unpack),
        exclude=instruction.exclude,
    )


def _documents(stage: DispatchState, instruction: i.FilesInstruction) -> list[Mkfile]:
    return [
        Mkfile(
            path=destination(stage, instruction),
            name=doc.name,
            data=doc.text().encode(),
            chmod=instruction.chmod,
            owner=owner(instruction.chown, classic=stage.common.classic),
        )
        for doc in instruction.heredocs
    ]


def destination(stage: DispatchState, instruction: i.FilesInstruction) -> str:
    """Return the absolute destination; one that ends in `/` or is `.` means a directory.

    Raises: DockerfileError in the classic dialect, where a directory must be written as one.
    """
    written = instruction.destination
    directory = _is_directory(written)
    several = len(instruction.sources) + len(instruction.heredocs) > 1
    if several and not directory and stage.common.classic:
        raise DockerfileError(
            f"When using {instruction.keyword} with more than one source file, the destination must be a directory and "
            "end with a /",
            [instruction.range],
        )
    path = posixpath.normpath(posixpath.join("/", stage.cwd, written)).replace("//", "/")
    return f"{path.rstrip('/')}/" if directory else path


def _is_directory(written: str) -> bool:
    return written in ("", ".") or written.endswith(("/", "/."))


def owner(text: str, *, classic: bool = False) -> Owner | None:
    """Return `--chown`. Raises: InvalidArgument."""
    if not text:
        return None
    user, colon, group = text.partition(":")
    if ":" in group:
        raise InvalidArgument(f"invalid chown string: {text}")
    return Owner(user=user, group=group if colon else "", classic=classic)
