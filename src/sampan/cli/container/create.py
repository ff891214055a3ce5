"""`sampan create`: a container from an image, pulling the image when it is missing. `run` begins here too."""

from __future__ import annotations

import os
import sys

from sampan.cli import progress
from sampan.cli.container import config, options
from sampan.cli.image.names import problem
from sampan.cli.session import CommandError, describe
from sampan.errors import NotFound, SampanError, words
from sampan.spec import platform_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] IMAGE [COMMAND] [ARG...]"
ARGS = (1, None)
INTERSPERSED = False
FLAGS = options.FLAGS
PARSERS = options.PARSERS


class CreateRefused(Exception):
    """The container was not created; the message says why, in full. `create` and `run` dress it differently."""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    body = request(cli, opts, args)
    try:
        cli.line(create(cli, opts, body))
    except CreateRefused as e:
        raise CommandError(str(e)) from e
    return 0


def request(cli: Cli, opts: FlagValues, args: list[str], *, detach: bool = False) -> dict[str, Any]:
    """Return the create request that flags and arguments ask for."""
    try:
        return config.build(opts, args[0], args[1:], detach=detach)
    except ValueError as e:
        raise usage_error(cli, str(e)) from e


def usage_error(cli: Cli, message: str) -> CommandError:
    """Say what is wrong with the command line, with the hint below."""
    return CommandError(f"sampan: {message}\n\nRun 'sampan {cli.path} --help' for more information", 125)


def create(cli: Cli, opts: FlagValues, body: dict[str, Any]) -> str:
    """Create it, pulling as `--pull` says. Returns the id; warnings go to standard error. Raises: CreateRefused."""
    if (when := opts.text("pull")) not in ("always", "missing", "never"):
        raise usage_error(cli, f'invalid pull option: \'{when}\': must be one of "always", "missing" or "never"')
    if wrong := problem(body["Image"]):
        raise CreateRefused(wrong)
    platform = platform_of(opts)
    if wrong := platform_text.problem(platform):
        raise CreateRefused(f"error parsing specified platform: {wrong}")
    _proxies(cli, body)
    cidfile = opts.text("cidfile")
    fd = _open_cidfile(cidfile) if cidfile else -1
    identifier = ""
    try:
        identifier = _created(cli, opts, body, when, platform)
    except SampanError as e:
        raise CreateRefused(describe(e)) from e
    except progress.ProgressError as e:
        raise CreateRefused(e.message) from e
    finally:
        if fd >= 0:
            os.write(fd, identifier.encode())
            os.close(fd)
            if not identifier:
                os.unlink(cidfile)
    return identifier


def _open_cidfile(path: str) -> int:
    """Make the file before the container, so that none is created whose id could not be kept."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise CreateRefused(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        ) from None
    except OSError as e:
        reason = words(e)
        raise CreateRefused(f"failed to create the container ID file: open {path}: {reason}") from e


def _created(cli: Cli, opts: FlagValues, body: dict[str, Any], when: str, platform: str) -> str:
    query = {"name": opts.text("name") or None, "platform": platform or None}
    if when == "always":
        pull(cli, opts, body["Image"])
    try:
        answer = cli.engine.call("POST", "/containers/create", query, body)
    except NotFound:
        if when != "missing":
            raise
        if not opts.flag("quiet"):
            cli.warn(f"Unable to find image '{familiar(body['Image'])}' locally")
        pull(cli, opts, body["Image"])
        answer = cli.engine.call("POST", "/containers/create", query, body)
    for warning in answer.get("Warnings") or ():
        cli.warn(f"WARNING: {warning}")
    identifier: str = answer["Id"]
    return identifier


def pull(cli: Cli, opts: FlagValues, image: str) -> None:
    """Pull `image` with progress on standard error. Raises: ProgressError."""
    from sampan.cli.image import pull as image_pull

    quiet = opts.flag("quiet")
    out = None if quiet else sys.stderr
    image_pull.pull(cli, image, platform=platform_of(opts), out=out, terminal=os.isatty(2))


def platform_of(opts: FlagValues) -> str:
    return opts.text("platform") or os.environ.get("DOCKER_DEFAULT_PLATFORM", "")


def familiar(image: str) -> str:
    """Turn `busybox` → `busybox:latest`, as messages name it."""
    return image if "@" in image or ":" in image.rpartition("/")[2] else image + ":latest"


def _proxies(cli: Cli, body: dict[str, Any]) -> None:
    """Turn the proxy settings of config.json into environment variables, where the user has set none."""
    table = cli.config.table("proxies")
    if not table:
        return
    settings = table.get(cli.endpoint.address.url) or table.get("default") or {}
    env: list[str] = body["Env"] or []
    known = {item.partition("=")[0] for item in env}
    for key, name in (
        ("httpProxy", "HTTP_PROXY"),
        ("httpsProxy", "HTTPS_PROXY"),
        ("ftpProxy", "FTP_PROXY"),
        ("noProxy", "NO_PROXY"),
        ("allProxy", "ALL_PROXY"),
    ):
        value = settings.get(key)
        if value:
            env += [f"{spelling}={value}" for spelling in (name, name.lower()) if spelling not in known]
    body["Env"] = env or None
