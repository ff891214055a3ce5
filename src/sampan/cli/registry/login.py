"""`sampan login`: check credentials with the engine, then keep them where docker keeps them."""

from __future__ import annotations

import sys

from sampan.cli.registry import credentials
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] [SERVER]"
ARGS = (0, 1)
FLAGS = """
  -p, --password string   Password or personal access token
      --password-stdin    Read the password or token from stdin
  -u, --username string   Username
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    user, password = opts.text("username"), opts.text("password")
    if opts.flag("password-stdin"):
        if password:
            raise CommandError("conflicting options: cannot specify both --password and --password-stdin")
        if not user:
            raise CommandError("the --password-stdin option requires --username to be set")
        password = sys.stdin.read().rstrip("\r\n")
    elif password:
        cli.warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    server = args[0] if args else ""
    key = credentials.HUB_KEY if server in ("", credentials.HUB, "index.docker.io") else _plain(server)
    if not user or not password:
        user, password = _ask(user)
    auth = {"username": user, "password": password, "serveraddress": key}
    answer = cli.engine.post("/auth", auth) or {}
    credentials.store(cli.config, key, user, password, answer.get("IdentityToken") or "")
    if not credentials.helper_for(cli.config, key):
        cli.warn(
            f"\nWARNING! Your credentials are stored unencrypted in '{cli.config.path}'.\n"
            "Configure a credential helper to remove this warning.\n"
        )
    cli.line(answer.get("Status") or "Login Succeeded")
    return 0


def _plain(server: str) -> str:
    return server.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _ask(user: str) -> tuple[str, str]:
    import getpass

    if not sys.stdin.isatty():
        raise CommandError("Error: Cannot perform an interactive login from a non TTY device")
    if not user:
        sys.stderr.write("Username: ")
        sys.stderr.flush()
        user = sys.stdin.readline().strip()
    password = getpass.getpass("Password: ")
    if not user or not password:
        raise CommandError("Error: Password Required" if user else "Error: Non-null Username Required")
    return user, password
