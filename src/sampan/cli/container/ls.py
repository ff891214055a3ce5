"""`sampan ps`."""

from __future__ import annotations

from sampan.cli import format as format_
from sampan.cli import units
from sampan.cli.listing import FORMAT_HELP, filters, print_list, templated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = f"""
  -a, --all             Show all containers (default shows only running ones)
  -f, --filter filter   Show only containers that match these conditions
      --format string   {FORMAT_HELP}
  -n, --last int        Show the n containers created last, in any state (default -1)
  -l, --latest          Show the container created last, in any state
      --no-trunc        Do not cut anything short
  -q, --quiet           Only show IDs
  -s, --size            Show how much disk the containers use
"""
RAW_FORMAT = (
    "container_id=ID image=Image command=Command created_at=CreatedAt state=State status=Status names=Names "
    "labels=Labels "
    "ports=Ports"
)


NO_CONTAINER: dict[str, object] = {"Id": "", "Image": "", "Command": "", "Created": 0, "State": "", "Status": ""}


_UNFIT = ("failed to parse template", "failed to execute template")  # only this command says so


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    template = opts.text("format")
    last = 1 if opts.flag("latest") and opts.number("last") == -1 else opts.number("last")
    with_size = opts.flag("size") or ".Size" in template
    rows = cli.engine.get(
        "/containers/json",
        all=opts.flag("all"),
        limit=last if last > 0 else None,
        size=with_size,
        filters=filters(opts.many("filter")),
    )
    columns = "ID Image Command RunningFor Status Ports Names" + (" Size" if with_size else "")
    if opts.flag("no-trunc"):
        for row in rows:
            row["no-trunc"] = True
    template = template or cli.config.text("psFormat")
    if not rows and template not in ("", "table", "json", "raw"):
        templated(
            FIELDS, [NO_CONTAINER], template, kind="ContainerContext", unfit=_UNFIT
        )  # a bad template is told without rows too
    raw = RAW_FORMAT + (" size=Size" if with_size else "")
    print_list(
        cli, FIELDS, rows, template, columns, quiet=opts.flag("quiet"), kind="ContainerContext", raw=raw, unfit=_UNFIT
    )
    return 0


def _names(c: dict[str, Any]) -> str:
    names = [name.removeprefix("/") for name in c.get("Names") or ()]
    if "no-trunc" not in c:
        names = [name for name in names if "/" not in name]  # names that links gave
    return ",".join(names)


def _image(c: dict[str, Any]) -> str:
    image = c["Image"] or "<no image>"
    if "no-trunc" in c:
        return image
    if image.startswith("sha256:") or image == c.get("ImageID"):
        return units.short_id(image)
    return image.partition("@")[0]  # a digest is noise in a table


def _command(c: dict[str, Any]) -> str:
    from sampan.client.jsontext import dumps

    command = c["Command"]
    return dumps(command if "no-trunc" in c else units.truncated(command, 20))


def _size(c: dict[str, Any]) -> str:
    text = units.human_size(c.get("SizeRw") or 0, 3)
    if root := c.get("SizeRootFs"):
        text += f" (virtual {units.human_size(root, 3)})"
    return text


def _mounts(c: dict[str, Any]) -> str:
    names = [m.get("Name") or m.get("Source", "") for m in c.get("Mounts") or ()]
    return ",".join(names if "no-trunc" in c else [units.truncated(n, 15) for n in names])


def _local_volumes(c: dict[str, Any]) -> str:
    return str(sum(1 for m in c.get("Mounts") or () if m.get("Driver") == "local"))


def ports(items: list[dict[str, Any]] | None) -> str:
    """Write `0.0.0.0:8080->80/tcp, 443/tcp`; runs of neighbours become a range."""
    groups: dict[tuple[str, str], list[tuple[int, int]]] = {}
    plain: list[str] = []

    def order(port: dict[str, Any]) -> tuple[Any, ...]:
        return port["PrivatePort"], port.get("IP") or "", port.get("PublicPort") or 0, port["Type"]

    for port in sorted(items or (), key=order):
        inside, outside, protocol = port["PrivatePort"], port.get("PublicPort") or 0, port["Type"]
        if outside and inside != outside:
            host = f"[{port['IP']}]" if ":" in port["IP"] else port["IP"]
            plain.append(f"{host}:{outside}->{inside}/{protocol}")
            continue
        address = port.get("IP", "") if outside else ""
        ranges = groups.setdefault((address, protocol), [])
        if ranges and ranges[-1][1] + 1 == inside:
            ranges[-1] = (ranges[-1][0], inside)
        else:
            ranges.append((inside, inside))
    out = []
    for (address, protocol), ranges in groups.items():
        host = f"[{address}]" if ":" in address else address
        for low, high in ranges:
            span = str(low) if low == high else f"{low}-{high}"
            out.append(f"{host}:{span}->{span}/{protocol}" if address else f"{span}/{protocol}")
    return ", ".join([*plain, *out])


def _label(c: dict[str, Any], name: str = "") -> str:
    value: str = (c.get("Labels") or {}).get(name, "")
    return value


FIELDS: format_.Fields = {
    "ID": ("CONTAINER ID", lambda c: c["Id"] if "no-trunc" in c else c["Id"][:12]),
    "Names": ("NAMES", _names),
    "Image": ("IMAGE", _image),
    "Command": ("COMMAND", _command),
    "CreatedAt": ("CREATED AT", lambda c: units.local_time(c["Created"])),
    "RunningFor": ("CREATED", lambda c: units.ago(c["Created"])),
    "Ports": ("PORTS", lambda c: ports(c.get("Ports"))),
    "State": ("STATE", lambda c: c["State"]),
    "Status": ("STATUS", lambda c: c["Status"]),
    "Size": ("SIZE", _size),
    "Labels": ("LABELS", lambda c: ",".join(f"{k}={v}" for k, v in sorted((c.get("Labels") or {}).items()))),
    "Label": ("", _label),
    "Mounts": ("MOUNTS", _mounts),
    "LocalVolumes": ("LOCAL VOLUMES", _local_volumes),
    "Networks": ("NETWORKS", lambda c: ",".join((c.get("NetworkSettings") or {}).get("Networks") or {})),
    "Platform": ("PLATFORM", lambda c: c.get("ImageManifestDescriptor")),
}
