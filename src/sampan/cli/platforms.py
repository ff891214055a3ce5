"""`--platform os[/arch[/variant]]` as the API's JSON."""

from __future__ import annotations

from sampan.cli.session import CommandError
from sampan.client import jsontext

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "armhf": "arm",
    "armel": "arm",
}


def platform_json(text: str) -> str | None:
    """Return the JSON of the platform, None for ""."""
    if not text:
        return None
    parts = [part.lower() for part in text.split("/")]
    if (
        len(parts) > 3
        or not all(parts)
        or not all(p.replace("-", "").replace("_", "").replace(".", "").isalnum() for p in parts)
    ):
        raise CommandError(f'"{text}": invalid platform')
    if len(parts) == 1:
        parts = ["linux", parts[0]] if parts[0] not in ("linux", "windows", "darwin") else parts
    platform = {"os": parts[0], "architecture": ""}
    if len(parts) > 1:
        platform["architecture"] = _ARCHITECTURES.get(parts[1], parts[1])
    if len(parts) > 2:
        platform["variant"] = parts[2]
    return jsontext.dumps(platform)
