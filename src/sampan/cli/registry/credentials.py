"""Registry credentials from config.json, as the `X-Registry-Auth` header, and an image's full name.

Kept where docker keeps them: `auths` (base64 of user:password), or a credential helper (`credsStore`, `credHelpers`),
which is a program `docker-credential-NAME` that speaks JSON. `sampan login` writes what `docker login` reads.

Source: docker/cli config file; docker-credential-helpers protocol; Engine API, authentication.
"""

from __future__ import annotations

import binascii

from sampan.client import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.cli.config import Config

HUB = "docker.io"
HUB_KEY = "https://index.docker.io/v1/"


def domain(name: str) -> str:
    """Return the registry that an image's name points to."""
    first, slash, _ = name.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else HUB


def full_name(name: str) -> str:
    """Turn `busybox` → `docker.io/library/busybox`."""
    if domain(name) != HUB or name.startswith(HUB + "/"):
        return name
    return f"{HUB}/{name}" if "/" in name else f"{HUB}/library/{name}"


def header(config: Config, name: str) -> list[tuple[str, str]]:
    """Return the header for the registry of `name`; an empty object when nothing is known about it."""
    registry = domain(name)
    found = lookup(config, HUB_KEY if registry == HUB else registry)
    return [("X-Registry-Auth", encoded(found))]


def encoded(auth: Mapping[str, object]) -> str:
    """Return the URL-safe base64 of the JSON."""
    text = binascii.b2a_base64(jsontext.dumps(auth).encode(), newline=False).decode("ascii")
    return text.replace("+", "-").replace("/", "_")


def lookup(config: Config, key: str) -> dict[str, str]:
    """Return what is stored for a registry, as the API's AuthConfig; {} when nothing is."""
    if helper := helper_for(config, key):
        return _ask(helper, key)
    auths = config.table("auths")
    entry = auths.get(key)
    if entry is None:
        entry = next((value for name, value in auths.items() if _host(name) == _host(key)), None)
    if not isinstance(entry, dict):
        return {}
    auth = {"serveraddress": key}
    if entry.get("auth"):
        user, _, password = binascii.a2b_base64(entry["auth"]).decode("utf-8", "replace").partition(":")
        auth |= {"username": user, "password": password.rstrip("\0")}
    if entry.get("identitytoken"):
        auth = {"serveraddress": key, "username": auth.get("username", ""), "identitytoken": entry["identitytoken"]}
    if entry.get("registrytoken"):
        auth["registrytoken"] = entry["registrytoken"]
    return auth


def store(config: Config, key: str, user: str, password: str, token: str) -> None:
    """Keep credentials for a registry."""
    if helper := helper_for(config, key):
        secret = {"ServerURL": key, "Username": "<token>" if token else user, "Secret": token or password}
        _run(helper, "store", jsontext.dumps(secret))
        return
    auth = binascii.b2a_base64(f"{user}:{password}".encode(), newline=False).decode()
    entry = {"auth": auth if not token else binascii.b2a_base64(f"{user}:".encode(), newline=False).decode()}
    if token:
        entry["identitytoken"] = token
    config.data.setdefault("auths", {})[key] = entry
    config.save()


def erase(config: Config, key: str) -> bool:
    """Forget a registry; False when nothing was kept."""
    if helper := helper_for(config, key):
        _run(helper, "erase", key)
        return True
    auths = config.table("auths")
    names = [name for name in auths if name == key or _host(name) == _host(key)]
    for name in names:
        del auths[name]
    if names:
        config.save()
    return bool(names)


def helper_for(config: Config, key: str) -> str:
    helper: str = config.table("credHelpers").get(_host(key)) or config.text("credsStore")
    return helper


def _host(key: str) -> str:
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _ask(helper: str, key: str) -> dict[str, str]:
    answer = _run(helper, "get", key)
    if answer is None:
        return {}
    found = jsontext.loads(answer)
    if found.get("Username") == "<token>":
        return {"serveraddress": key, "identitytoken": found.get("Secret", "")}
    return {"serveraddress": key, "username": found.get("Username", ""), "password": found.get("Secret", "")}


def _run(helper: str, action: str, text: str) -> str | None:
    import subprocess

    if "/" in helper:
        return None
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", action], input=text, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def all_header(config: Config) -> list[tuple[str, str]]:
    """Return X-Registry-Config: what the client's configuration knows of every registry, for a build that may
    need any.
    """
    keys = (*config.table("auths"), *config.table("credHelpers"))
    known = {key: found for key in dict.fromkeys(keys) if (found := lookup(config, key))}
    return [("X-Registry-Config", encoded(known))] if known else []
