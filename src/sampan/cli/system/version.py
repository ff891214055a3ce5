"""`sampan version`."""

from __future__ import annotations

import sys

from sampan.cli.format import tabulated
from sampan.cli.inspection import Misfit, rendered
from sampan.cli.listing import INSPECT_HELP
from sampan.client.engine import MAX_API, VERSION, ConnectionFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = f"""
  -f, --format string   {INSPECT_HELP}
"""
NAMES = (
    ("Version", "Version:"), ("ApiVersion", "API version:"), ("GoVersion", "Go version:"),
    ("PythonVersion", "Python version:"),
    ("GitCommit", "Git commit:"), ("BuildTime", "Built:"), ("Arch", "OS/Arch:"), ("Experimental", "Experimental:"),
)  # fmt: skip


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    failure: ConnectionFailed | None = None
    server: dict[str, Any] | None = None
    try:
        server = cli.engine.get("/version")
    except ConnectionFailed as e:
        failure = e
    for component in (server or {}).get("Components") or ():
        details = component.get("Details") or {}
        if "BuildTime" in details:
            details["BuildTime"] = _built(details["BuildTime"])
    version = {"Client": _client(cli, connected=server is not None), "Server": server}
    if opts.text("format"):
        types = {id(version): "system.versionInfo", id(version["Client"]): "system.clientVersion"}
        types[id(server)] = "*types.Version"

        def type_of(holder: dict[str, Any]) -> str:
            return types.get(id(holder), "")

        try:
            text = rendered(opts.text("format"), version, name="version", type_of=type_of)
        except Misfit as e:
            cli.line(e.written)
            raise
        cli.line(text)
    else:
        cli.out(_text(version))
    if failure is not None:
        raise failure
    return 0


def _client(cli: Cli, *, connected: bool) -> dict[str, Any]:
    newest = f"{MAX_API[0]}.{MAX_API[1]}"
    return {
        "Version": VERSION,
        "ApiVersion": cli.engine.api_version if connected else newest,
        "DefaultAPIVersion": newest,
        "GitCommit": "",
        "GoVersion": "",
        "PythonVersion": sys.version.split()[0],
        "Os": "linux",
        "Arch": machine(),
        "BuildTime": "",
        "Context": cli.endpoint.context,
    }


def machine() -> str:
    import os

    name = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(name, name)


def _text(version: dict[str, Any]) -> str:
    client, server = version["Client"], version["Server"]
    api = client["ApiVersion"]
    if api != client["DefaultAPIVersion"]:
        api += f" (downgraded from {client['DefaultAPIVersion']})"
    lines = [
        "Client:",
        f" Version:\t{client['Version']}",
        f" API version:\t{api}",
        f" Python version:\t{client['PythonVersion']}",
        f" OS/Arch:\t{client['Os']}/{client['Arch']}",
        f" Context:\t{client['Context']}",
    ]
    if server is not None:
        platform = (server.get("Platform") or {}).get("Name") or ""
        lines += ["", f"Server: {platform}".rstrip()]
        for component in server.get("Components") or ():
            lines += [f" {component['Name']}:", f"  Version:\t{component['Version']}"]
            details = component.get("Details") or {}
            lines += _details(details) if component["Name"] == "Engine" else _plain(details)
    return tabulated("\n".join(lines) + "\n", minimum=20, padding=1)


def _details(details: dict[str, str]) -> list[str]:
    lines = []
    for key, label in NAMES[1:]:
        if key not in details:
            continue
        value = details[key]
        if key == "ApiVersion":
            value += f" (minimum version {details.get('MinAPIVersion', '')})"
        if key == "Arch":
            value = f"{details.get('Os', '')}/{value}"
        lines.append(f"  {label}\t{value}")
    return lines


def _plain(details: dict[str, str]) -> list[str]:
    return [f"  {key}:\t{value}" for key, value in sorted(details.items())]


def _built(text: str) -> str:
    from sampan.spec import times

    try:
        return times.ansic(times.parse(text))
    except ValueError:
        return text
