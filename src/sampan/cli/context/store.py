"""Stored contexts: named endpoints below the configuration directory, in docker's layout.

    contexts/meta/<sha256 of the name>/meta.json       {"Name", "Metadata": {…}, "Endpoints": {"docker": {"Host", …}}}
    contexts/tls/<sha256 of the name>/docker/{ca,cert,key}.pem

Source: docker/cli context store, compared on disk.
"""

from __future__ import annotations

import os

from sampan.cli.config import DEFAULT_CONTEXT, ContextError, write_atomically
from sampan.client import jsontext
from sampan.client.transport import Address, Tls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.config import Config

FILES = ("ca", "cert", "key")


def check_name(name: str) -> None:
    """Check that a context can have this name. Raises: ContextError."""
    if not name:
        raise ContextError("context name cannot be empty")
    if name == DEFAULT_CONTEXT:
        raise ContextError('"default" is a reserved context name')
    good = len(name) > 1 and name[0].isalnum() and all(c.isalnum() or c in "_.+-" for c in name) and name.isascii()
    if not good:
        raise ContextError(
            f'context name "{name}" is invalid, names are validated against regexp "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"'
        )


def _digest(name: str) -> str:
    import hashlib

    return hashlib.sha256(name.encode()).hexdigest()


def meta_directory(directory: str, name: str) -> str:
    return os.path.join(directory, "contexts", "meta", _digest(name))


def tls_directory(directory: str, name: str) -> str:
    return os.path.join(directory, "contexts", "tls", _digest(name))


def load(directory: str, name: str) -> dict[str, Any]:
    """Return the metadata of one context. Raises: ContextError."""
    path = os.path.join(meta_directory(directory, name), "meta.json")
    try:
        with open(path, "rb") as f:
            meta = jsontext.loads(f.read())
    except (FileNotFoundError, NotADirectoryError):
        missing = f"open {path}: no such file or directory"
        raise ContextError(f'context "{name}": context not found: {missing}') from None
    except ValueError as e:
        raise ContextError(f'context "{name}": {path}: {e}') from e
    if not isinstance(meta, dict) or not isinstance(meta.get("Endpoints") or {}, dict):
        raise ContextError(f'context "{name}": {path}: not the metadata of a context')
    return meta


def names(directory: str) -> list[str]:
    """Return all stored contexts, sorted."""
    top = os.path.join(directory, "contexts", "meta")
    found = []
    try:
        entries = os.listdir(top)
    except FileNotFoundError:
        return []
    for entry in entries:
        try:
            with open(os.path.join(top, entry, "meta.json"), "rb") as f:
                found.append(str(jsontext.loads(f.read())["Name"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sorted(found)


def save(directory: str, name: str, meta: dict[str, Any], tls: dict[str, bytes]) -> None:
    """Write a context whole: keys first, then the file that makes it exist."""
    if tls:
        target = os.path.join(tls_directory(directory, name), "docker")
        os.makedirs(target, mode=0o700, exist_ok=True)
        for file, data in tls.items():
            write_atomically(os.path.join(target, file), data)
    target = meta_directory(directory, name)
    os.makedirs(target, mode=0o755, exist_ok=True)
    write_atomically(os.path.join(target, "meta.json"), jsontext.dumps(meta).encode())


def remove(directory: str, name: str) -> None:
    for target in (meta_directory(directory, name), os.path.join(tls_directory(directory, name), "docker")):
        try:
            for file in os.listdir(target):
                os.unlink(os.path.join(target, file))
            os.rmdir(target)
        except FileNotFoundError:
            continue
    try:
        os.rmdir(tls_directory(directory, name))
    except OSError:
        pass


def tls_files(directory: str, name: str) -> dict[str, str]:
    """Return {"ca": path, …} of the files that exist."""
    top = os.path.join(tls_directory(directory, name), "docker")
    paths = {kind: os.path.join(top, f"{kind}.pem") for kind in FILES}
    return {kind: path for kind, path in paths.items() if os.path.exists(path)}


def endpoint(directory: str, name: str) -> tuple[Address, Tls | None]:
    """Return where a context's engine is, and what TLS takes. Raises: ContextError."""
    docker = (load(directory, name).get("Endpoints") or {}).get("docker")
    if not isinstance(docker, dict) or not isinstance(docker.get("Host"), str) or not docker["Host"]:
        raise ContextError(f'context "{name}": no docker endpoint')
    files = tls_files(directory, name)
    skip = bool(docker.get("SkipTLSVerify"))
    tls = Tls(ca=files.get("ca", ""), cert=files.get("cert", ""), key=files.get("key", ""), verify=not skip)
    secured = bool(files) or skip
    try:
        return Address(docker["Host"]), tls if secured else None
    except ValueError as e:
        raise ContextError(str(e)) from e


def described_default(host: str) -> dict[str, Any]:
    """Show the context "default" as `inspect` shows it; `host` is what flags and environment say."""
    return {
        "Name": DEFAULT_CONTEXT,
        "Metadata": {},
        "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}},
        "TLSMaterial": {},
        "Storage": {"MetadataPath": "<IN MEMORY>", "TLSPath": "<IN MEMORY>"},
    }


def described(directory: str, name: str) -> dict[str, Any]:
    """Show a stored context as `inspect` shows it. Raises: ContextError."""
    meta = load(directory, name)
    files = tls_files(directory, name)
    return {
        "Name": name,
        "Metadata": meta.get("Metadata") or {},
        "Endpoints": meta.get("Endpoints") or {},
        "TLSMaterial": {"docker": [f"{kind}.pem" for kind in files]} if files else {},
        "Storage": {"MetadataPath": meta_directory(directory, name), "TLSPath": tls_directory(directory, name)},
    }


def use(config: Config, name: str) -> None:
    """Make a context the current one."""
    if name == DEFAULT_CONTEXT:
        config.data.pop("currentContext", None)
    else:
        config.data["currentContext"] = name
    config.save()
