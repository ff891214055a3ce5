"""`sampan context create`; what it reads of `--docker` serves `update` too."""

from __future__ import annotations

import os

from sampan.cli import endpoint
from sampan.cli.config import DEFAULT_CONTEXT, ContextError
from sampan.cli.context import store
from sampan.cli.session import CommandError
from sampan.errors import words
from sampan.spec import go_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTEXT"
ABOUT = """Create a context

Keys of --docker:

NAME                DESCRIPTION
from                Context whose endpoint to copy
host                Address of the engine
ca                  Trust only certificates signed by this CA
cert                TLS certificate file
key                 TLS key file
skip-tls-verify     Do not check the engine's certificate

Example:

$ sampan context create far --description "the big one" --docker "host=tcp://far:2376,ca=~/ca.pem,cert=~/cert.pem,key=~/key.pem\""""
ARGS = (1, 1)
FLAGS = """
      --description string      Description of the context
      --docker stringToString   Set the endpoint (default [])
      --from string             Create it from this context
"""
KEYS = ("from", "host", "ca", "cert", "key", "skip-tls-verify")


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    name, directory = args[0], cli.config.directory
    store.check_name(name)
    if name in store.names(directory):
        raise CommandError(f'context "{name}" already exists')
    settings = docker_settings(opts)
    if source := opts.text("from"):
        if settings:
            raise CommandError("cannot use --docker flag when --from is set")
        settings = {"from": source}
    if not settings:
        raise CommandError("docker endpoint configuration is required")
    meta, tls = endpoint_of(cli, settings)
    metadata = store.described(directory, source)["Metadata"] if source and source != DEFAULT_CONTEXT else {}
    if opts.text("description"):
        metadata["Description"] = opts.text("description")
    store.save(directory, name, {"Name": name, "Metadata": metadata, "Endpoints": {"docker": meta}}, tls)
    cli.line(name)
    cli.warn(f'Successfully created context "{name}"')
    return 0


def docker_settings(opts: FlagValues) -> dict[str, str]:
    """Return the key=value pairs of `--docker`."""
    settings: dict[str, str] = {}
    for text in opts.many("docker"):
        for field in go_values.fields(text):
            key, _, value = field.partition("=")
            if key not in KEYS:
                raise CommandError(f"unable to create docker endpoint config: unrecognized config key: {key}")
            settings[key] = value
    return settings


def endpoint_of(cli: Cli, settings: dict[str, str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return (endpoint metadata, TLS files by name)."""
    if source := settings.get("from"):
        try:
            docker = endpoint.described(cli.options, cli.config, source)["Endpoints"]["docker"]
        except ContextError as e:
            raise CommandError(str(e)) from e
        files = {} if source == DEFAULT_CONTEXT else store.tls_files(cli.config.directory, source)
        return dict(docker), {f"{kind}.pem": _read(path) for kind, path in files.items()}
    skip = False
    if "skip-tls-verify" in settings:
        try:
            skip = go_values.boolean(settings["skip-tls-verify"])
        except ValueError as e:
            raise CommandError(f"unable to create docker endpoint config: {e}") from e
    tls = {f"{kind}.pem": _read(os.path.expanduser(settings[kind])) for kind in store.FILES if settings.get(kind)}
    host = settings.get("host", "")
    if host and "://" not in host:
        raise CommandError(
            f"unable to create docker endpoint config: unable to apply docker endpoint options: unable to parse "
            f"docker host `{host}`"
        )
    return {"Host": host, "SkipTLSVerify": skip}, tls


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError as e:
        raise CommandError(f"unable to create docker endpoint config: open {path}: {words(e)}") from e
