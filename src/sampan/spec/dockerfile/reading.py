"""A node of a Dockerfile as a typed instruction: one reader a keyword. Pure.

Source: Dockerfile reference; what is checked first, and messages, as Docker Engine 28.5.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile import mounts
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.flags import Flags, suggestion
from sampan.spec.dockerfile.gotext import SPACE
from sampan.spec.dockerfile.heredocs import Heredoc, announced, is_heredoc
from sampan.spec.dockerfile.lines import Node
from sampan.spec.go_values import duration_ns, integer, quote

_STAGE = re.compile(r"[a-z][a-z0-9-_.]*\Z")
_ONBUILD = re.compile(r"\s*ONBUILD\s*", re.IGNORECASE)
_NETWORKS = ("default", "none", "host")
_SECURITY = ("sandbox", "insecure")


def instruction(node: Node) -> i.Instruction:
    """Read one instruction. Raises: DockerfileError at the node's lines."""
    keyword = node.keyword.upper()
    try:
        if keyword not in _READERS:
            lower = node.keyword == node.keyword.lower()
            hint = suggestion(node.keyword, [name.lower() if lower else name for name in i.KEYWORDS])
            raise DockerfileError(f"unknown instruction: {node.keyword}{hint}")
        read = _READERS[keyword](node)
    except DockerfileError as e:
        raise e.at(node.range) from None
    return replace(read, source=node.source.strip(SPACE), range=node.range, written=node.keyword)


def _need(node: Node) -> tuple[str, ...]:
    if not node.given.words:
        raise DockerfileError(f"{node.keyword.upper()} requires at least one argument")
    return node.given.words


def _one(node: Node) -> str:
    """The only argument of an instruction that knows no flags."""
    if len(node.given.words) != 1:
        raise DockerfileError(f"{node.keyword.upper()} requires exactly one argument")
    return node.given.words[0]


def _from(node: Node) -> i.Instruction:
    words = node.given.words
    stage = keyword_as = name = ""
    if len(words) == 3 and words[1].lower() == "as":
        _, keyword_as, name = words
        stage = name.lower()
        if not _STAGE.match(stage):
            raise DockerfileError(
                f"invalid name for build stage: {quote(name)}, name can't start with a number or contain symbols"
            )
    elif len(words) != 1:
        raise DockerfileError("FROM requires either one or three arguments")
    flags = Flags(node.flags, text=("platform",))
    return i.From(
        base=words[0],
        stage=stage,
        platform=flags.text("platform"),
        comment=_comment(node, stage),
        flags_used=flags.names,
        stage_written=name,
        as_written=keyword_as,
        misdescribed=_misdescribed(node, [stage]),
    )


def _comment(node: Node, name: str) -> str:
    """The comment above that begins with the name that it is about."""
    if name:
        for comment in node.comments:
            if comment.startswith(name + " "):
                return comment[len(name) + 1 :]
    return ""


def _misdescribed(node: Node, names: list[str]) -> str:
    """The first name, when comments stand above but none begins with a name."""
    described = any(comment.split(" ")[0] in names for comment in node.comments)
    return names[0] if node.comments and not described else ""


def _run(node: Node) -> i.Instruction:
    flags = Flags(node.flags, text=("network", "security"), many=("mount", "device"))
    found = tuple(mounts.parse(text) for text in flags.many("mount"))
    network = flags.text("network", "default")
    if network not in _NETWORKS:
        raise DockerfileError(f"invalid network mode {quote(network)}")
    security = flags.text("security", "sandbox")
    if security not in _SECURITY:
        raise DockerfileError(f"security {quote(security)} is not valid")
    return i.Run(
        command=_command(node),
        heredocs=node.heredocs,
        mounts=found,
        network=network,
        security=security,
        devices=flags.many("device"),
        flags_used=flags.names,
    )


def _command(node: Node) -> i.Command:
    return i.Command(node.given.words, shell=not node.given.json)


def _cmd(node: Node) -> i.Instruction:
    Flags(node.flags)
    return i.Cmd(command=_command(node))


def _entrypoint(node: Node) -> i.Instruction:
    Flags(node.flags)
    return i.Entrypoint(command=_command(node))


def _pairs(node: Node) -> tuple[i.Pair, ...]:
    Flags(node.flags)
    words = _need(node)
    if not all(words[::2]):
        raise DockerfileError(f"{node.keyword.upper()} names can not be blank")
    return tuple(i.Pair(key, value) for key, value in zip(words[::2], words[1::2], strict=True))


def _env(node: Node) -> i.Instruction:
    return i.Env(pairs=_pairs(node), legacy=node.given.legacy)


def _label(node: Node) -> i.Instruction:
    return i.Label(pairs=_pairs(node), legacy=node.given.legacy)


def _maintainer(node: Node) -> i.Instruction:
    name = _one(node)
    Flags(node.flags)
    return i.Maintainer(name=name)


def _expose(node: Node) -> i.Instruction:
    ports = _need(node)
    Flags(node.flags)
    return i.Expose(ports=tuple(sorted(ports)))


def _files(node: Node) -> tuple[tuple[str, ...], str, tuple[Heredoc, ...]]:
    """Sources, destination, and the sources that are heredocs."""
    *sources, destination = node.given.words
    if is_heredoc(destination):
        raise DockerfileError(f"{node.keyword.upper()} cannot accept a heredoc as a destination")
    plain = tuple(source for source in sources if not is_heredoc(source))
    by_name = {doc.name: doc.content for doc in node.heredocs}
    found = [doc for source in sources if is_heredoc(source) and (doc := announced(source))]
    return plain, destination, tuple(replace(doc, content=by_name.get(doc.name, "")) for doc in found)


def _two(node: Node) -> None:
    if len(node.given.words) < 2:
        raise DockerfileError(
            f"{node.keyword.upper()} requires at least two arguments, but only one was provided."
            " Destination could not be determined"
        )


def _add(node: Node) -> i.Instruction:
    _two(node)
    flags = Flags(
        node.flags,
        text=("chown", "chmod", "checksum"),
        many=("exclude",),
        switch=("link", "keep-git-dir", "unpack"),
    )
    sources, destination, documents = _files(node)
    return i.Add(
        sources=sources,
        destination=destination,
        heredocs=documents,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.switch("link"),
        exclude=flags.many("exclude"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.switch("keep-git-dir"),
        unpack=flags.switch("unpack") if "unpack" in flags.names else None,
        flags_used=flags.names,
    )


def _copy(node: Node) -> i.Instruction:
    _two(node)
    flags = Flags(node.flags, text=("chown", "from", "chmod"), many=("exclude",), switch=("link", "parents"))
    sources, destination, documents = _files(node)
    return i.CopyInstruction(
        sources=sources,
        destination=destination,
        heredocs=documents,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.switch("link"),
        exclude=flags.many("exclude"),
        from_=flags.text("from"),
        parents=flags.switch("parents"),
        flags_used=flags.names,
    )


def _volume(node: Node) -> i.Instruction:
    words = _need(node)
    Flags(node.flags)
    paths = tuple(word.strip(SPACE) for word in words)
    if not all(paths):
        raise DockerfileError("VOLUME specified can not be an empty string")
    return i.VolumeInstruction(paths=paths)


def _user(node: Node) -> i.Instruction:
    user = _one(node)
    Flags(node.flags)
    return i.User(user=user)


def _workdir(node: Node) -> i.Instruction:
    path = _one(node)
    Flags(node.flags)
    return i.Workdir(path=path)


def _arg(node: Node) -> i.Instruction:
    found = []
    for word in _need(node):
        key, equals, value = word.partition("=")
        if not key:
            raise DockerfileError("ARG names can not be blank")
        found.append(i.Argument(key, value if equals else None, _comment(node, key)))
    keys = [argument.key for argument in found]
    return i.Arg(arguments=tuple(found), misdescribed=_misdescribed(node, keys))


def _onbuild(node: Node) -> i.Instruction:
    trigger = _need(node)[0].upper()
    Flags(node.flags)
    refuse_trigger(trigger)
    texts = [f"\n{doc.content}{doc.name}" for doc in node.heredocs]
    return i.Onbuild(expression="".join([_ONBUILD.sub("", node.source, count=1), *texts]))


def refuse_trigger(keyword: str) -> None:
    """Refuse what ONBUILD may not hold. Raises: DockerfileError."""
    if keyword.upper() == "ONBUILD":
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if keyword.upper() in ("MAINTAINER", "FROM"):
        raise DockerfileError(f"{keyword.upper()} isn't allowed as an ONBUILD trigger")


def _stopsignal(node: Node) -> i.Instruction:
    return i.Stopsignal(signal=_one(node))


def _healthcheck(node: Node) -> i.Instruction:
    kind, *command = _need(node)
    if kind.upper() == "NONE":
        if command:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        return i.Healthcheck(test=("NONE",))
    flags = Flags(node.flags, text=("interval", "timeout", "start-period", "start-interval", "retries"))
    if kind.upper() != "CMD":
        raise DockerfileError(f"Unknown type {quote(kind.upper())} in HEALTHCHECK (try CMD)")
    if not command:
        raise DockerfileError("Missing command after HEALTHCHECK CMD")
    return i.Healthcheck(
        test=("CMD" if node.given.json else "CMD-SHELL", *command),
        interval_ns=_interval(flags, "interval"),
        timeout_ns=_interval(flags, "timeout"),
        start_period_ns=_interval(flags, "start-period"),
        start_interval_ns=_interval(flags, "start-interval"),
        retries=_retries(flags.text("retries")),
        flags_used=flags.names,
    )


def _interval(flags: Flags, name: str) -> int:
    text = flags.text(name)
    if not text:
        return 0
    try:
        ns = duration_ns(text)
    except ValueError as e:
        raise DockerfileError(str(e)) from None
    if ns and ns < 10**6:
        raise DockerfileError(f'Interval "{name}" cannot be less than 1ms')
    return ns


def _retries(text: str) -> int:
    if not text:
        return 0
    try:
        count = integer(text, bits=32)
    except ValueError as e:
        raise DockerfileError(str(e)) from e
    if count < 0:
        raise DockerfileError(f"--retries cannot be negative ({count})")
    return count


def _shell(node: Node) -> i.Instruction:
    Flags(node.flags)
    words = _need(node)
    if not node.given.json:
        raise DockerfileError("SHELL requires the arguments to be in JSON form")
    return i.Shell(words=words)


_READERS: dict[str, Callable[[Node], i.Instruction]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
