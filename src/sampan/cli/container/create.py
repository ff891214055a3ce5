"""`sampan create`: a container from an image, pulling the image when it is missing. `run` begins here too."""

from __future__ import annotations

import os
import sys

from sampan.cli import progress
from sampan.cli.container import config, options
from sampan.cli.image.names import problem
from sampan.cli.session import CommandError, describe
from sampan.errors import NotFound, SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

USAGE = "[OPTIONS] IMAGE [COMMAND] [ARG...]"
ARGS = (1, None)
INTERSPERSED = False
FLAGS = options.FLAGS
PARSERS = options.PARSERS


def run(cli: Session, opts: Options, args: list[str]) -> int:
    body = request(cli, opts, args)
    try:
        cli.line(create(cli, opts, body))
    except SampanError as e:
        raise CommandError(describe(e)) from e
    return 0


def request(cli: Session, opts: Options, args: list[str], *, detach: bool = False) -> dict[str, Any]:
    """The create request that flags and arguments ask for."""
    try:
        return config.build(opts, args[0], args[1:], detach=detach)
    except ValueError as e:
        raise usage_error(cli, str(e)) from e


def usage_error(cli: Session, message: str) -> CommandError:
    """What is wrong with the command line, with the hint below."""
    return CommandError(f"sampan: {message}\n\nRun 'sampan {cli.path} --help' for more information", 125)


def failure(cli: Session, error: SampanError, code: int = 125) -> CommandError:
    """An engine's error as `run` and `create` show it, with the hint below."""
    return CommandError(f"sampan: {describe(error)}\n\nRun 'sampan {cli.path} --help' for more information", code)


def create(cli: Session, opts: Options, body: dict[str, Any]) -> str:
    """Create it, pulling as `--pull` says. Returns the id; warnings go to standard error."""
    if (when := opts.text("pull")) not in ("always", "missing", "never"):
        raise usage_error(cli, f'invalid pull option: \'{when}\': must be one of "always", "missing" or "never"')
    cidfile = opts.text("cidfile")
    if cidfile and os.path.exists(cidfile):
        raise usage_error(
            cli, f"container ID file found, make sure the other container isn't running or delete {cidfile}"
        )
    if wrong := problem(body["Image"]):
        raise usage_error(cli, wrong)
    platform = platform_of(opts)
    if platform.count("/") > 2:
        raise usage_error(
            cli, f'error parsing specified platform: "{platform}": cannot parse platform specifier: invalid argument'
        )
    _proxies(cli, body)
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
    if cidfile:
        with open(cidfile, "x", encoding="ascii") as f:
            f.write(answer["Id"])
    identifier: str = answer["Id"]
    return identifier


def pull(cli: Session, opts: Options, image: str) -> None:
    """Pull `image` with progress on standard error."""
    from sampan.cli.image import pull as image_pull

    quiet = opts.flag("quiet")
    try:
        image_pull.pull(
            cli, image, platform=platform_of(opts), out=None if quiet else sys.stderr, terminal=os.isatty(2)
        )
    except progress.ProgressError as e:
        raise CommandError(f"sampan: {e.message}\n\nRun 'sampan {cli.path} --help' for more information", 125) from e


def platform_of(opts: Options) -> str:
    return opts.text("platform") or os.environ.get("DOCKER_DEFAULT_PLATFORM", "")


def familiar(image: str) -> str:
    """`busybox` → `busybox:latest`, as messages name it."""
    return image if "@" in image or ":" in image.rpartition("/")[2] else image + ":latest"


def _proxies(cli: Session, body: dict[str, Any]) -> None:
    """Proxy settings of config.json become environment variables that the user has not set."""
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
