"""`sampan info`."""

from __future__ import annotations

from sampan.cli import units
from sampan.cli.inspection import Misfit, rendered
from sampan.cli.listing import INSPECT_HELP
from sampan.cli.session import CommandError
from sampan.client.engine import VERSION, ConnectionFailed
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = f"""
  -f, --format string   {INSPECT_HELP}
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    failure = ""
    server: dict[str, Any] = {}
    try:
        server = cli.engine.get("/info")
    except ConnectionFailed as e:
        failure = e.message
    except SampanError as e:
        failure = f"Error response from daemon: {e.message}"
    client = {
        "Debug": cli.options.flag("debug"),
        "Version": VERSION,
        "Context": cli.endpoint.context,
        "Plugins": [],
        "Warnings": None,
    }
    if opts.text("format"):
        whole = {**server, "ServerErrors": [failure] if failure else None, "ClientInfo": client}
        try:
            cli.line(rendered(opts.text("format"), whole, type_of=lambda holder: _type(holder, whole)))
        except Misfit as e:
            cli.line(e.written)
            raise
        if failure:
            raise CommandError(failure)
        return 0
    cli.line("Client:")
    cli.line(f" Version:    {VERSION}\n Context:    {client['Context']}\n Debug Mode: {_bool(bool(client['Debug']))}\n")
    cli.line("Server:")
    if failure:
        raise CommandError(failure)
    for line in server_lines(server):
        cli.line(line)
    for warning in server.get("Warnings") or ():
        cli.warn(warning)
    return 0


def _type(holder: dict[str, Any], whole: dict[str, Any]) -> str:
    if holder is whole:
        return "system.dockerInfo"
    if holder is whole["ClientInfo"]:
        return "*system.clientInfo"
    return "swarm.Info" if holder is whole.get("Swarm") else ""


def server_lines(i: dict[str, Any]) -> Iterator[str]:
    """Return what docker shows of `/info`, in its order."""
    yield f" Containers: {i['Containers']}"
    yield f"  Running: {i['ContainersRunning']}"
    yield f"  Paused: {i['ContainersPaused']}"
    yield f"  Stopped: {i['ContainersStopped']}"
    yield f" Images: {i['Images']}"
    yield f" Server Version: {i['ServerVersion']}"
    yield f" Storage Driver: {i['Driver']}"
    for name, value in i.get("DriverStatus") or ():
        yield f"  {name}: {value}"
    yield f" Logging Driver: {i['LoggingDriver']}"
    yield f" Cgroup Driver: {i['CgroupDriver']}"
    yield f" Cgroup Version: {i['CgroupVersion']}"
    plugins = i.get("Plugins") or {}
    yield " Plugins:"
    for kind in ("Volume", "Network", "Authorization", "Log"):
        if plugins.get(kind) or kind in ("Volume", "Network", "Log"):
            yield f"  {kind}: {' '.join(plugins.get(kind) or ())}"
    if directories := i.get("CDISpecDirs"):
        yield " CDI spec directories:"
        yield from (f"  {directory}" for directory in directories)
    yield f" Swarm: {(i.get('Swarm') or {}).get('LocalNodeState', 'inactive')}"
    yield f" Runtimes: {' '.join(sorted(i.get('Runtimes') or ()))}"
    yield f" Default Runtime: {i['DefaultRuntime']}"
    yield f" Init Binary: {i['InitBinary']}"
    for name, key in (("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit")):
        yield f" {name} version: {(i.get(key) or {}).get('ID', '')}"
    yield from _security(i.get("SecurityOptions") or ())
    yield from _machine(i)
    yield from _settings(i)


def _security(options: list[str] | tuple[()]) -> Iterator[str]:
    if options:
        yield " Security Options:"
    for option in options:
        settings = dict(part.partition("=")[::2] for part in option.split(","))
        yield f"  {settings.pop('name', '')}"
        for key, value in settings.items():
            yield f"   {key[:1].upper()}{key[1:]}: {value}"


def _machine(i: dict[str, Any]) -> Iterator[str]:
    yield f" Kernel Version: {i['KernelVersion']}"
    yield f" Operating System: {i['OperatingSystem']}"
    yield f" OSType: {i['OSType']}"
    yield f" Architecture: {i['Architecture']}"
    yield f" CPUs: {i['NCPU']}"
    yield f" Total Memory: {units.bytes_size(i['MemTotal'])}"
    yield f" Name: {i['Name']}"
    yield f" ID: {i['ID']}"
    yield f" Docker Root Dir: {i['DockerRootDir']}"
    yield f" Debug Mode: {_bool(i['Debug'])}"


def _settings(i: dict[str, Any]) -> Iterator[str]:
    if i["Debug"]:
        yield f"  File Descriptors: {i['NFd']}"
        yield f"  Goroutines: {i['NGoroutines']}"
        yield f"  System Time: {i['SystemTime']}"
        yield f"  EventsListeners: {i['NEventsListener']}"
    for name, key in (("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy")):
        if i.get(key):
            yield f" {name}: {i[key]}"
    if labels := i.get("Labels"):
        yield " Labels:"
        yield from (f"  {label}" for label in labels)
    yield f" Experimental: {_bool(i['ExperimentalBuild'])}"
    registry = i.get("RegistryConfig") or {}
    insecure = [name for name, index in (registry.get("IndexConfigs") or {}).items() if not index.get("Secure")]
    if insecure or registry.get("InsecureRegistryCIDRs"):
        yield " Insecure Registries:"
        yield from (f"  {name}" for name in [*insecure, *(registry.get("InsecureRegistryCIDRs") or ())])
    if mirrors := registry.get("Mirrors"):
        yield " Registry Mirrors:"
        yield from (f"  {mirror}" for mirror in mirrors)
    yield f" Live Restore Enabled: {_bool(i['LiveRestoreEnabled'])}"
    if i.get("ProductLicense"):
        yield f" Product License: {i['ProductLicense']}"
    if pools := i.get("DefaultAddressPools"):
        yield " Default Address Pools:"
        yield from (f"   Base: {pool['Base']}, Size: {pool['Size']}" for pool in pools)
    firewall = i.get("FirewallBackend") or {}
    if firewall.get("Driver", "iptables") != "iptables" or firewall.get("Info"):
        yield f" Firewall Backend: {firewall['Driver']}"
        yield from (f"  {name}: {value}" for name, value in firewall.get("Info") or ())
    yield ""


def _bool(value: bool) -> str:
    return "true" if value else "false"
