"""The instructions of a Dockerfile as values: one frozen class each, as written, and `expanded` by variables.

What stands here is what the text says. What an instruction does to an image's configuration is in `config.py`, what it
does to a file system is the builder's business. `expanded` replaces variables in just those fields where Docker does.

Source: Dockerfile reference (docs.docker.com/reference/dockerfile); behaviour of Docker Engine 28.5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from sampan.spec.dockerfile.errors import NOWHERE, DockerfileError, Range
from sampan.spec.dockerfile.heredocs import Heredoc, is_heredoc
from sampan.spec.dockerfile.mounts import MountFlag
from sampan.spec.dockerfile.words import Variables

SCRIPTS = "/dev/pipes"  # where a RUN finds the heredoc that is a script


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """`source` is the instruction on one line (continuations joined, no heredocs), `range` covers all its lines."""

    keyword: ClassVar[str] = ""
    source: str = ""
    range: Range = NOWHERE
    flags_used: tuple[str, ...] = ()  # names without dashes, for doors that know fewer flags
    written: str = ""  # the keyword as it was typed

    def expanded(self, variables: Variables) -> Self:
        """Return this instruction with its variables replaced. Raises: DockerfileError at its lines."""
        try:
            return self._replaced(variables)
        except DockerfileError as e:
            raise e.at(self.range) from None

    def _replaced(self, variables: Variables) -> Self:
        return self


@dataclass(frozen=True, slots=True)
class Command:
    """A command line: words to execute as they are, or, when `shell`, one text for the shell (possibly empty)."""

    words: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, slots=True)
class Pair:
    key: str
    value: str

    def expanded(self, variables: Variables) -> Pair:
        return Pair(variables.word(self.key), variables.word(self.value))


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    """FROM [--platform=…] image [AS name]; `stage` is lower case, '' without a name."""

    keyword: ClassVar[str] = "FROM"
    base: str
    platform: str = ""
    stage: str = ""
    comment: str = ""  # `# name text` on the line before, for listings of targets
    stage_written: str = ""  # name and AS as they were typed
    as_written: str = ""
    misdescribed: str = ""  # the name, when there are comments above and none is about it


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """RUN. With `heredocs` the command is what stands on the RUN line (`<<EOF`, `python3 <<EOF > x`, …)."""

    keyword: ClassVar[str] = "RUN"
    command: Command
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[MountFlag, ...] = ()
    network: str = "default"  # default, none, host
    security: str = "sandbox"  # sandbox, insecure
    devices: tuple[str, ...] = ()  # --device is known by name only

    def program(self) -> tuple[Command, Heredoc | None]:
        """Return what to run, heredocs put in: the command, and the heredoc that is a script (it begins with `#!`).

        The script is to be a file of mode 0755 at SCRIPTS/<its name>, and the command has just its path.
        """
        if not self.heredocs or not self.command.shell:
            return self.command, None
        (line,), first = self.command.words, self.heredocs[0]
        if not is_heredoc(line):
            texts = "".join(f"\n{doc.content}{doc.name}" for doc in self.heredocs)
            return Command((line + texts,), shell=True), None
        if first.content.startswith("#!"):
            return Command((f"{SCRIPTS}/{first.name}",), shell=True), first
        return Command((first.text(),), shell=True), None

    def _replaced(self, variables: Variables) -> Self:
        if self.devices:
            raise DockerfileError("device feature is only supported in Dockerfile frontend 1.14.0-labs or later")
        return replace(self, mounts=tuple(mount.expanded(variables) for mount in self.mounts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    keyword: ClassVar[str] = "CMD"
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    keyword: ClassVar[str] = "ENTRYPOINT"
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    """LABEL; `legacy` is the form `LABEL key the rest`."""

    keyword: ClassVar[str] = "LABEL"
    pairs: tuple[Pair, ...]
    legacy: bool = False

    def _replaced(self, variables: Variables) -> Self:
        return replace(self, pairs=tuple(pair.expanded(variables) for pair in self.pairs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    """ENV; `legacy` is the form `ENV key the rest`. All pairs see the environment before the instruction."""

    keyword: ClassVar[str] = "ENV"
    pairs: tuple[Pair, ...]
    legacy: bool = False

    def _replaced(self, variables: Variables) -> Self:
        return replace(self, pairs=tuple(pair.expanded(variables) for pair in self.pairs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    keyword: ClassVar[str] = "MAINTAINER"
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    """EXPOSE; each of `ports` is `80`, `80/udp`, `8000-8010/tcp`, and may be a variable until expanded."""

    keyword: ClassVar[str] = "EXPOSE"
    ports: tuple[str, ...]

    def _replaced(self, variables: Variables) -> Self:
        return replace(self, ports=tuple(word for port in self.ports for word in variables.words(port)))


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesInstruction(Instruction):
    """What ADD and COPY share. `sources` without heredocs; those are files in `heredocs`, by their names."""

    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()

    def _replaced(self, variables: Variables) -> Self:
        return replace(
            self,
            sources=tuple(variables.word(source) for source in self.sources),
            destination=variables.word(self.destination),
            heredocs=tuple(
                replace(
                    doc,
                    name=variables.word(doc.name),
                    content=variables.document(doc.text()) if doc.expand else doc.text(),
                    strip_tabs=False,
                )
                for doc in self.heredocs
            ),
            chown=variables.word(self.chown),
            chmod=variables.word(self.chmod),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(FilesInstruction):
    keyword: ClassVar[str] = "ADD"
    checksum: str = ""
    keep_git_dir: bool = False
    unpack: bool | None = None  # None: unpack local archives, keep remote ones

    def _replaced(self, variables: Variables) -> Self:
        return replace(FilesInstruction._replaced(self, variables), checksum=variables.word(self.checksum))


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyInstruction(FilesInstruction):
    keyword: ClassVar[str] = "COPY"
    from_: str = ""  # a stage's name or number, an image, or a named context
    parents: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeInstruction(Instruction):
    keyword: ClassVar[str] = "VOLUME"
    paths: tuple[str, ...]

    def _replaced(self, variables: Variables) -> Self:
        return replace(self, paths=tuple(variables.word(path) for path in self.paths))


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    keyword: ClassVar[str] = "USER"
    user: str

    def _replaced(self, variables: Variables) -> Self:
        return replace(self, user=variables.word(self.user))


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    keyword: ClassVar[str] = "WORKDIR"
    path: str

    def _replaced(self, variables: Variables) -> Self:
        return replace(self, path=variables.word(self.path))


@dataclass(frozen=True, slots=True)
class Argument:
    key: str
    value: str | None  # None: `ARG name` without a default
    comment: str = ""  # `# name text` on the line before


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """ARG, several a line. In a stage all see the scope before the line; before FROM each sees those left of it."""

    keyword: ClassVar[str] = "ARG"
    arguments: tuple[Argument, ...]
    misdescribed: str = ""  # as FROM's

    def _replaced(self, variables: Variables) -> Self:
        return replace(
            self,
            arguments=tuple(
                replace(a, key=variables.word(a.key), value=None if a.value is None else variables.word(a.value))
                for a in self.arguments
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Onbuild(Instruction):
    """ONBUILD; `expression` is the text kept in the image (heredocs included), read again by `stages.parse_trigger`."""

    keyword: ClassVar[str] = "ONBUILD"
    expression: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopsignal(Instruction):
    keyword: ClassVar[str] = "STOPSIGNAL"
    signal: str

    def _replaced(self, variables: Variables) -> Self:
        return replace(self, signal=variables.word(self.signal))


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """HEALTHCHECK; `test` begins with NONE, CMD or CMD-SHELL as in the image's configuration.

    Times in ns, 0: default.
    """

    keyword: ClassVar[str] = "HEALTHCHECK"
    test: tuple[str, ...]
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    keyword: ClassVar[str] = "SHELL"
    words: tuple[str, ...]


KEYWORDS = (
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL",
    "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
)  # fmt: skip
