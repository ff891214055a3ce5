"""`inspect` of anything: find each object, print one JSON list or a template for each; what was not found follows."""

from __future__ import annotations

import sys

from sampan.cli.printf import Nil
from sampan.cli.session import CommandError
from sampan.client import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from sampan.cli.session import Cli

SLICES = (
    "Env Cmd Entrypoint OnBuild Shell Binds VolumesFrom CapAdd CapDrop Dns DnsOptions DnsSearch ExtraHosts GroupAdd "
    "Links "
    "SecurityOpt Devices DeviceRequests DeviceCgroupRules Ulimits BlkioWeightDevice BlkioDeviceReadBps "
    "BlkioDeviceWriteBps "
    "BlkioDeviceReadIOps BlkioDeviceWriteIOps MaskedPaths ReadonlyPaths Mounts Aliases DNSNames RepoTags RepoDigests "
    "Layers "
    "ExecIDs Peers"
)
MAPS = (
    "Volumes Labels Options Tmpfs StorageOpt Sysctls Annotations ExposedPorts PortBindings Ports DriverOpts Status "
    "Services "
    "AuxiliaryAddresses Containers"
)
POINTERS = (
    "Health Init Healthcheck StopTimeout SizeRw SizeRootFs UsageData ClusterVolume PidsLimit MemorySwappiness "
    "OomKillDisable "
    "IPAMConfig"
)
TEXTS = (
    "StopSignal MacAddress Parent Comment Author Variant OsVersion Container Gateway IPRange CgroupnsMode Runtime Error"
)
FLAGS = "ArgsEscaped NetworkDisabled"

# What the API leaves out or writes as null, and what a template then sees: Go's zero value of that field.
ZERO: dict[str, Any] = {
    **dict.fromkeys(SLICES.split(), Nil("[]")),
    **dict.fromkeys(MAPS.split(), Nil("map[]")),
    **dict.fromkeys(POINTERS.split(), None),
    **dict.fromkeys(TEXTS.split(), ""),
    **dict.fromkeys(FLAGS.split(), False),
}


# Templates may name a field as Go does, where its JSON key is spelled otherwise.
GO_NAMES = {
    "ID": "Id", "APIVersion": "ApiVersion", "NanoCPUs": "NanoCpus", "CPUShares": "CpuShares", "CPUPeriod": "CpuPeriod",
    "CPUQuota": "CpuQuota", "CPURealtimePeriod": "CpuRealtimePeriod", "CPURealtimeRuntime": "CpuRealtimeRuntime",
    "CPUCount": "CpuCount", "CPUPercent": "CpuPercent", "DNS": "Dns", "DNSOptions": "DnsOptions",
    "DNSSearch": "DnsSearch",
    "HostIP": "HostIp", "CPUCfsPeriod": "CpuCfsPeriod", "CPUCfsQuota": "CpuCfsQuota", "OSVersion": "OsVersion",
    "OSFeatures": "OsFeatures",
}  # fmt: skip


class Misfit(CommandError):
    """A template that does not fit an object of a known type. written: what it had given until then."""

    def __init__(self, message: str, written: str) -> None:
        super().__init__(message)
        self.written = written


def rendered(
    template: str, value: Any, *, name: str = "", type_of: Callable[[dict[str, Any]], str] | None = None
) -> str:
    """Write one object by a template, called `name` in errors. Raises: CommandError.

    type_of: what Go calls an object's type, where docker decodes it to one: it decides about unknown fields.
    """
    if template == "json":
        template = "{{json .}}"
    if template == "{{json .}}":
        return jsontext.dumps(value)
    from sampan.cli.functions import Unfit
    from sampan.cli.template import Template, TemplateError

    def missing(name: str, holder: dict[str, Any]) -> Any:
        if (key := GO_NAMES.get(name)) in holder:
            return holder[key]
        if name in holder or name in ZERO:
            return ZERO.get(name)
        if type_of is not None and (kind := type_of(holder)):
            raise Unfit(f"can't evaluate field {name} in type {kind}")
        raise Unfit(f'map has no entry for key "{name}"')

    try:
        compiled = Template(template, name=name, missing=missing)
    except TemplateError as e:
        raise CommandError(f"template parsing error: {e}", 64) from e
    try:
        return compiled.render(value)
    except TemplateError as e:
        if type_of is not None:
            raise Misfit(str(e), e.written) from e
        raise CommandError(f"template parsing error: {e}") from e


def _check(template: str) -> None:
    """Check that a template can be read, before anything is asked. Raises: CommandError 64."""
    from sampan.cli.template import Template, TemplateError

    try:
        Template(template)
    except TemplateError as e:
        raise CommandError(f"template parsing error: {e}", 64) from e


def inspect(
    cli: Cli, names: Iterable[str], template: str, find: Callable[[str], Any], *, escape_html: bool = False
) -> int:
    """Print all that `find` finds. It Raises: CommandError for what it does not; then the exit code is 1."""
    if template not in ("", "json"):
        _check(template)
    found: list[Any] = []
    failed: list[str] = []
    for name in names:
        try:
            found.append(find(name))
        except CommandError as e:
            failed.append(e.message)
    if template == "json":
        cli.line(jsontext.dumps(found))
    elif template:
        unfit: list[str] = []
        for value in found:
            try:
                cli.line(rendered(template, value))
            except CommandError as e:
                if e.code != 1:
                    raise
                unfit.append(e.message)
        if unfit:
            cli.line("")  # the line that the template began
        failed = unfit + failed
    else:
        text = jsontext.indented(found)
        cli.line(jsontext.html_escaped(text) if escape_html else text)
    if failed:
        sys.stdout.flush()
        raise CommandError("\n".join(failed))
    return 0
