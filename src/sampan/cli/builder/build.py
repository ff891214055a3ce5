"""`sampan build`: a context and a Dockerfile become an image.

The steps run in parallel and are drawn as they go (display.py); `--progress=classic`, or DOCKER_BUILDKIT=0, is Docker's
classic builder, line for line. What the client has to give besides the context (secrets, keys, further directories) and
what it takes back (`--output`) goes over a session (session.py), which is opened only when there is such a thing.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager

from sampan.cli import launcher, progress
from sampan.cli.builder import cachemounts, context, display, onerror, refusals, wants
from sampan.cli.container.resources import ulimit
from sampan.cli.registry import credentials
from sampan.cli.session import CommandError
from sampan.errors import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli
    from sampan.client.http import Response
    from sampan.spec.dockerfile import ignore

USAGE = "[OPTIONS] PATH | URL | -"
ARGS = (1, 1)
FLAGS = """
      --add-host strings               Add a line to /etc/hosts of the steps ("host:ip")
      --allow list                     Allow steps a privilege ("network.host", "security.insecure")
      --annotation list                Add an annotation to the image
      --attest list                    Attestation parameters
      --build-arg list                 Set build arguments
      --build-context list             Further contexts ("name=path", "name=docker-image://image", "name=URL")
      --builder string                 Name of the builder; there is one, "default"
      --cache-from list                Where else to look for results of earlier builds ("image", "type=local,src=dir")
      --cache-mount-export string      Write the contents of the build's cache mounts to this directory
      --cache-mount-import string      Fill the build's cache mounts from this directory first
      --cache-to list                  Where to keep the results for other builds ("image", "type=local,dest=dir")
      --call string                    What to do with the Dockerfile ("build", "check", "outline", "targets")\
 (default "build")
      --cgroup-parent string           Parent cgroup of the steps
      --check                          Only check the Dockerfile; the same as --call=check
      --compress                       Compress the context with gzip
      --cpu-period int                 CFS period of the CPU limit, in microseconds
      --cpu-quota int                  CFS quota of the CPU limit, in microseconds
  -c, --cpu-shares int                 Relative CPU weight
      --cpuset-cpus string             CPUs that may be used (0-3, 0,1)
      --cpuset-mems string             Memory nodes that may be used (0-3, 0,1)
      --disable-content-trust          Skip verification of image signatures (default true)
  -f, --file string                    Path of the Dockerfile, "-" for standard input (default: "PATH/Dockerfile")
      --force-rm                       Accepted; nothing is ever left of a step
      --iidfile string                 Write the image's ID to this file
      --isolation string               Accepted for Docker's sake ("default")
      --label list                     Add a label to the image
      --load                           The same as --output=type=docker
  -m, --memory bytes                   Memory limit of a step
      --memory-swap bytes              Limit of memory plus swap of a step, -1 for no limit
      --metadata-file string           Write what is known of the result to this file, as JSON
      --network string                 Network of the steps (default "default")
      --no-cache                       Run every step again
      --no-cache-filter list           Run every step of these stages again
      --on-error string                What becomes of a failed step's files: "commit" makes an image of them,\
 "shell" enters them
  -o, --output list                    Where the result goes ("dir", "type=local,dest=dir", "type=tar,dest=file",\
 "type=oci,dest=file")
      --platform list                  Platform of the image
      --progress string                How progress is shown ("auto", "plain", "tty", "rawjson", "quiet", "none",\
 "classic") (default "auto")
      --provenance string              The same as --attest=type=provenance
      --pull                           Look for newer base images in the registry
      --push                           The same as --output=type=registry
  -q, --quiet                          Only print the image's ID
      --rm                             Accepted; nothing is ever left of a step (default true)
      --sbom string                    The same as --attest=type=sbom
      --secret list                    A secret for the steps that ask for it ("id=name[,src=path][,env=variable]")
      --security-opt strings           Security options
      --shm-size bytes                 Size of /dev/shm
      --squash                         Make one layer of all new ones
      --ssh list                       Keys or an agent's socket for the steps that ask ("default", "id=path")
  -t, --tag list                       Name of the image ("name:tag")
      --target string                  Stage to build
      --ulimit ulimit                  Limits of the steps (default [])
"""
PARSERS = {"ulimit": ulimit}
SENT_WHOLE_BYTES = 4 * 1024 * 1024
SENT_WHOLE_FILES = 2000
"""A context up to this size goes with the request, at once; of a larger one the engine asks for what it needs."""
_URLS = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    classic = opts.text("progress") == "classic" or os.environ.get("DOCKER_BUILDKIT") == "0"
    refusals.check(opts, classic=classic)
    source = ContextSource(args[0], opts.text("file"), compress=opts.flag("compress"))
    wanted = BuildFlags(opts)
    if classic:
        if wanted.session or opts.text("on-error") or wanted.call != "build":
            raise CommandError("the classic builder takes no secrets, keys, outputs, further contexts or questions")
        return _classic(cli, opts, source)
    if directory := opts.text("cache-mount-import"):
        cachemounts.bring(cli.engine, directory)
    try:
        shown = display.chosen("quiet" if opts.flag("quiet") else opts.text("progress"), sys.stderr)
    except progress.ProgressError as e:
        raise CommandError(f"ERROR: {e.message}") from e
    query = parameters(opts, source) | wanted.query | {"version": "2"}
    with source.offered() as asked_for, wanted.opened(cli, asked_for) as session_id:
        query |= {"session": session_id or None}
        if asked_for:
            query |= {"remote": "client-session"}
        try:
            result = display.show(_ask(cli, query, source), shown)
        except progress.ProgressError as e:
            if shown.failure.get("ID"):
                return onerror.enter(cli, shown.failure, opts.text("on-error"), e.message)
            raise CommandError(f"ERROR: failed to build: {e.message}") from e
        finally:
            if directory := opts.text("cache-mount-export"):
                cachemounts.take(cli.engine, directory)
    if wanted.call != "build":
        return _answered(cli, wanted, result.answer)
    if result.image and (path := opts.text("iidfile")):
        _write(path, result.image)
    if path := opts.text("metadata-file"):
        _write(path, json.dumps(result.said, indent=2, sort_keys=True))
    if result.image and opts.flag("quiet"):
        cli.line(result.image)
    return 0


class BuildFlags:
    """What the flags ask of the client itself, and say to the engine beside Docker's own parameters."""

    def __init__(self, opts: FlagValues) -> None:
        self.call, _, rest = opts.text("call").partition(",")
        if opts.flag("check"):
            self.call = "check"
        self.format = wants.pairs(rest).get("format", "") if rest else ""
        if self.format not in ("", "text", "json"):
            raise CommandError(f'ERROR: invalid format "{self.format}" of --call: use text or json')
        self._secrets = wants.secrets(opts.many("secret"))
        self._ssh = wants.ssh(opts.many("ssh"))
        named = wants.contexts(opts.many("build-context"))
        self._contexts = {name: value for name, value in named.items() if not value.startswith(wants.OTHERS)}
        outputs = wants.outputs(opts.many("output"), load=opts.flag("load"), push=opts.flag("push"))
        self._outputs = {number: output for number, output in enumerate(outputs) if output.path}
        come_from, read = wants.cache_ends(opts.many("cache-from"), importing=True)
        go_to, written = wants.cache_ends(opts.many("cache-to"), importing=False)
        self._contexts |= read
        self._outputs |= {int(n): wants.OutputFlag("local", {}, path) for n, path in written.items()}
        told = {name: f"local:{name}" if name in self._contexts else value for name, value in named.items()}
        self.session = bool(self._secrets or self._ssh or self._contexts or self._outputs)
        self.query: dict[str, object] = {
            "call": self.call if self.call != "build" else None,
            "contexts": json.dumps(told) if told else None,
            "outputs": json.dumps([{"Type": o.type, "Attrs": o.attrs} for o in outputs]) if outputs else None,
            "cachefrom": json.dumps(come_from) if come_from else None,
            "cacheto": json.dumps(go_to) if go_to else None,
            "nocachefilter": opts.many("no-cache-filter") or None,
            "allow": opts.many("allow") or None,
            "onerror": _on_error(opts.text("on-error")),
        }

    @contextmanager
    def opened(self, cli: Cli, main: dict[str, str]) -> Iterator[str]:
        """A session for as long as the build runs; its id, "" when nothing needs one.

        main: the directories of the main context and its Dockerfile, when the engine is to ask for them.
        """
        if not self.session and not main:
            yield ""
            return
        launcher.packages()
        from sampan.cli.builder.session import ClientSession  # gRPC takes a tenth of a second to import

        with ClientSession(
            cli.new_engine(),
            name="sampan",
            secrets={name: _reader(place) for name, place in self._secrets.items()},
            ssh=self._ssh,
            contexts=self._contexts | main,
            outputs=self._outputs,
            auth=lambda host: ("", ""),  # they go with the request
        ) as session:
            yield session.id


def _reader(place: str) -> Callable[[], bytes]:
    """How to get a secret when a step asks for it. place: a path, or `env:NAME`."""

    def read() -> bytes:
        if place.startswith("env:"):
            return os.environb.get(place[4:].encode(), b"")
        with open(place, "rb") as file:
            return file.read()

    return read


def _ask(cli: Cli, query: dict[str, object], source: ContextSource) -> Response:
    headers = [("Content-Type", "application/x-tar"), *credentials.all_header(cli.config)]
    pieces: Iterable[bytes] = () if query.get("remote") == "client-session" else source.pieces()
    if sys.stderr.isatty() and not query.get("q"):
        pieces = progress.sending(pieces, "Sending build context", sys.stderr)
    return cli.engine.open("POST", "/build", query, headers=headers, raw=pieces)


def _classic(cli: Cli, opts: FlagValues, source: ContextSource) -> int:
    """The classic builder, whose lines come as they are."""
    ids: list[str] = []
    response = _ask(cli, parameters(opts, source) | {"version": "1", "q": opts.flag("quiet") or None}, source)
    try:
        progress.show(response, sys.stdout, on_aux=lambda aux: ids.append(aux.get("ID", "")))
    except progress.ProgressError as e:
        raise CommandError(e.message, e.code) from e
    if ids and (path := opts.text("iidfile")):
        _write(path, ids[-1])
    return 0


def _answered(cli: Cli, wanted: BuildFlags, answer: dict[str, str]) -> int:
    """What a question about the Dockerfile gave; findings of the checks are a failure."""
    if wanted.format == "json":
        cli.line(answer.get("result.json", "").rstrip("\n"))
        return 1 if answer.get("result.statuscode", "0") != "0" else 0
    cli.out(answer.get("result.txt", ""))
    if wanted.call == "check" and answer.get("result.statuscode", "0") == "0":
        cli.line("Check complete, no warnings found.")
    return 1 if answer.get("result.statuscode", "0") != "0" else 0


def _on_error(value: str) -> str | None:
    if value not in ("", "shell", "commit"):
        raise CommandError(f"invalid --on-error {value!r}: use shell or commit")
    return "commit" if value else None


class ContextSource:
    """Where context and Dockerfile come from. file: the --file flag. compress: send it as a gzip archive."""

    def __init__(self, argument: str, file: str, *, compress: bool = False) -> None:
        self._compress = compress
        self.remote = argument if argument.startswith(_URLS) else ""
        self.dockerfile = file or "Dockerfile"
        self._directory = ""
        self._extra: dict[str, bytes] = {}
        self._stdin = b""
        if self.remote:
            return
        if argument == "-":
            if file == "-":
                raise CommandError("invalid argument: can't use stdin for both build context and dockerfile")
            self._stdin = sys.stdin.buffer.read()
            if not _archive(self._stdin):
                self._extra, self._stdin, self.dockerfile = {"Dockerfile": self._stdin}, b"", "Dockerfile"
            return
        self._directory = os.path.realpath(argument)
        if not os.path.isdir(self._directory):
            raise CommandError(f'unable to prepare context: path "{argument}" not found')
        if file == "-":
            self.dockerfile = ".dockerfile.stdin"
            self._extra = {self.dockerfile: sys.stdin.buffer.read()}
        elif file:
            self._place(file)
        elif not os.path.exists(os.path.join(self._directory, "Dockerfile")):
            raise _no_dockerfile(os.path.join(self._directory, "Dockerfile"))

    def _place(self, file: str) -> None:
        """A Dockerfile inside the context goes by its path there, one outside is sent along under a name of its own."""
        path = os.path.realpath(file)
        if not os.path.exists(path):
            raise _no_dockerfile(path)
        inside = os.path.relpath(path, self._directory)
        if not inside.startswith(".."):
            self.dockerfile = inside
            return
        self.dockerfile = ".dockerfile.outside"
        for name in ("", ".dockerignore"):
            try:
                with open(path + name, "rb") as content:
                    self._extra[self.dockerfile + name] = content.read()
            except FileNotFoundError:
                continue

    @contextmanager
    def offered(self) -> Iterator[dict[str, str]]:
        """The directories that the engine is to ask for what it needs of, by name; {} to send all at once."""
        if not self._large():
            yield {}
            return
        if not self._extra:
            yield {"context": self._directory, "dockerfile": self._directory}
            return
        import tempfile

        with tempfile.TemporaryDirectory(prefix="sampan-build-") as definition:
            for name, data in self._extra.items():
                with open(os.path.join(definition, name), "wb") as file:
                    file.write(data)
            yield {"context": self._directory, "dockerfile": definition}

    def _large(self) -> bool:
        if not self._directory or self._compress:
            return False
        try:
            return context.larger(self._directory, self._patterns(), SENT_WHOLE_FILES, SENT_WHOLE_BYTES)
        except CommandError:
            return False  # what is wrong is said when the context is sent

    def _patterns(self) -> ignore.Ignore:
        own = self._extra.get(f"{self.dockerfile}.dockerignore")
        return context.ignored(self._directory, self.dockerfile, own)

    def pieces(self) -> Iterator[bytes]:
        """Return the context as an archive."""
        return context.compressed(self._archive()) if self._compress else self._archive()

    def _archive(self) -> Iterator[bytes]:
        if self.remote:
            return iter(())
        if self._stdin:
            return iter((self._stdin,))
        if not self._directory:
            return context.packed(self._extra)
        return context.pieces(self._directory, self._patterns(), extra=self._extra)


def parameters(opts: FlagValues, source: ContextSource) -> dict[str, object]:
    """Return the query of POST /build. Raises: CommandError."""
    args = {}
    for text in opts.many("build-arg"):
        name, given, value = text.partition("=")
        args[name] = value if given else os.environ.get(name)
    labels = dict(text.partition("=")[::2] for text in opts.many("label"))
    query: dict[str, object] = {
        "dockerfile": source.dockerfile,
        "remote": source.remote or None,
        "t": opts.many("tag") or None,
        "target": opts.text("target") or None,
        "buildargs": json.dumps(args) if args else None,
        "labels": json.dumps(labels) if labels else None,
        "nocache": opts.flag("no-cache") or None,
        "pull": opts.flag("pull") or None,
        "networkmode": opts.text("network"),
        "platform": ",".join(opts.many("platform")) or os.environ.get("DOCKER_DEFAULT_PLATFORM") or None,
        "extrahosts": opts.many("add-host") or None,
        "shmsize": opts.number("shm-size") or None,
        "memory": opts.number("memory") or None,
        "memswap": opts.number("memory-swap") or None,
        "cpushares": opts.number("cpu-shares") or None,
        "cpuperiod": opts.number("cpu-period") or None,
        "cpuquota": opts.number("cpu-quota") or None,
        "cpusetcpus": opts.text("cpuset-cpus") or None,
        "cpusetmems": opts.text("cpuset-mems") or None,
        "cgroupparent": opts.text("cgroup-parent") or None,
        "ulimits": json.dumps(opts.value("ulimit")) if opts.value("ulimit") else None,
        "securityopt": opts.many("security-opt") or None,
        "isolation": opts.text("isolation") or None,
        "squash": opts.flag("squash") or None,
        "rm": True,
    }
    return query


def _archive(data: bytes) -> bool:
    """Whether this is a tar, compressed or not; else it is a Dockerfile."""
    return data[257:262] == b"ustar" or data.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as e:
        raise CommandError(f"open {path}: {words(e)}") from e


def _no_dockerfile(path: str) -> CommandError:
    reason = f"lstat {path}: no such file or directory"
    return CommandError(f"unable to prepare context: unable to evaluate symlinks in Dockerfile path: {reason}")
