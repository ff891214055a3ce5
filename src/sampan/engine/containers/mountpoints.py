"""From `-v`, `--mount`, `--tmpfs`, `--volumes-from` and VOLUME to a list of mount points. Decides, creates nothing.

`plan` returns the mount points in the order they are mounted; volumes are named but not yet made (`source` is
filled in by the service once they exist). Every refusal is in Docker's words.

Source: Engine API 1.51 `HostConfig.Binds`, `Mount`; Docker Engine 28.5's answers.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Collection

from msgspec.structs import replace

from sampan.engine.containers.records import Container, MountPoint
from sampan.errors import Internal, InvalidArgument
from sampan.spec.engine_api.container import ContainerConfig, HostConfig
from sampan.spec.engine_api.mount import MountSpec

PROPAGATIONS = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})
_FLAG_GROUPS = (
    frozenset({"rw", "ro"}),
    frozenset({"z", "Z"}),
    PROPAGATIONS,
    frozenset({"nocopy"}),
    frozenset({"consistent", "cached", "delegated"}),
)
VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


def plan(
    config: ContainerConfig, host: HostConfig, *, data_root: str, lookup: Callable[[str], Container]
) -> list[MountPoint]:
    """Decide the mounts of a new container.

    lookup: finds the containers of --volumes-from. Raises: InvalidArgument, Internal (Docker's status 500).
    """
    found: dict[str, MountPoint] = {}
    for spec in host.volumes_from or []:
        for mount in _from_container(spec, lookup):
            found[mount.destination] = mount
    asked = {clean(destination) for destination in host.tmpfs or ()}
    for spec in host.binds or []:
        mount = parse_bind(spec, data_root=data_root, volume_driver=host.volume_driver)
        _claim(mount, asked)
        found[mount.destination] = mount
    for request in host.mounts or []:
        mount = parse_mount(request, data_root=data_root)
        _claim(mount, asked)
        found[mount.destination] = mount
    for destination in config.volumes or ():
        destination = clean(destination)
        if destination not in found and destination not in asked:
            found[destination] = MountPoint(
                type="volume", destination=destination, driver=host.volume_driver or "local", copy=True, anonymous=True
            )
    return list(found.values())


def _claim(mount: MountPoint, asked: set[str]) -> None:
    if mount.destination in asked:
        raise InvalidArgument(f"Duplicate mount point: {mount.destination}")
    asked.add(mount.destination)


def clean(path: str) -> str:
    """Return the one spelling of a destination under which mounts are compared, ordered and made."""
    path = posixpath.normpath(path)
    return path[1:] if path.startswith("//") else path


def check_mode(mode: str) -> frozenset[str]:
    """Return the flags of a `-v` mode. Raises: Internal `invalid mode: …`."""
    flags = mode.split(",") if mode else []
    for flag in flags:
        if not any(flag in group for group in _FLAG_GROUPS):
            raise Internal(f"invalid mode: {mode}")
    if any(len([f for f in flags if f in group]) > 1 for group in _FLAG_GROUPS):
        raise Internal(f"invalid mode: {mode}")
    return frozenset(flags)


def parse_bind(spec: str, *, data_root: str, volume_driver: str = "") -> MountPoint:
    """Parse one entry of HostConfig.Binds: `[source:]destination[:mode]`."""
    parts = spec.split(":")
    wrong = f"invalid volume specification: '{spec}'"
    if not 1 <= len(parts) <= 3 or not parts[0] or (len(parts) > 1 and not parts[1]):
        raise Internal(wrong)
    mode = parts[2] if len(parts) == 3 else ""
    source = parts[0] if len(parts) > 1 else ""
    target = parts[1] if len(parts) > 1 else parts[0]
    if len(parts) == 2 and (target in ("ro", "rw") or target in PROPAGATIONS):
        raise Internal(wrong)
    flags = check_mode(mode)
    propagation = next(iter(flags & PROPAGATIONS), "")
    is_bind = source.startswith("/")
    kind = "bind" if is_bind else "volume"
    refusal = f'{wrong}: invalid mount config for type "{kind}": '
    if is_bind and "nocopy" in flags:
        raise Internal(refusal + "field VolumeOptions must not be specified")
    if not is_bind and propagation:
        raise Internal(refusal + "field BindOptions must not be specified")
    try:
        _check_target(target)
    except InvalidArgument as e:
        raise Internal(refusal + e.message) from None
    rw = "ro" not in flags
    if is_bind:
        source = clean(source)
        return MountPoint(
            type="bind",
            destination=clean(target),
            source=source,
            mode=mode,
            rw=rw,
            propagation=_propagation(source, propagation, data_root),
            create_source=True,
        )
    if source:
        check_volume_name(source)
    return MountPoint(
        type="volume",
        destination=clean(target),
        name=source,
        driver=volume_driver or "local",
        mode=mode or "z",
        rw=rw,
        copy="nocopy" not in flags,
        anonymous=not source,
    )


def check_volume_name(name: str) -> None:
    """Refuse what cannot be a volume's name. Raises: InvalidArgument."""
    if len(name) < 2:
        raise InvalidArgument(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if not VOLUME_NAME.fullmatch(name):
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only'
            ' "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )


def _check_target(target: str) -> None:
    if target == "":
        raise InvalidArgument("field Target must not be empty")
    if clean(target) == "/":
        raise InvalidArgument("invalid specification: destination can't be '/'")
    if not target.startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{target}' mount path must be absolute")


def check_tmpfs_target(target: str) -> None:
    """Refuse a --tmpfs destination that is relative or the root. Raises: InvalidArgument."""
    _check_target(target)


def _propagation(source: str, asked: str, data_root: str) -> str:
    """Return the propagation of a bind; above our data root it must let unmounts through, lest it pin our mounts."""
    inside = data_root == source or data_root.startswith(source.rstrip("/") + "/")
    if inside and asked not in ("", "rslave", "rshared"):
        raise InvalidArgument(
            'invalid mount config: must use either propagation mode "rslave" or "rshared" when mount source is within'
            f' the daemon root, daemon root: "{data_root}", bind mount source: "{source}", propagation: "{asked}"'
        )
    return asked or ("rslave" if inside else "rprivate")


def parse_mount(m: MountSpec, *, data_root: str) -> MountPoint:
    """Parse one entry of HostConfig.Mounts that `check_mount` has passed. Raises: InvalidArgument."""
    destination = clean(m.target)
    if m.type == "bind":
        options = m.bind_options
        source = clean(m.source)
        return MountPoint(
            type="bind",
            destination=destination,
            source=source,
            rw=not m.read_only,
            propagation=_propagation(source, options.propagation if options else "", data_root),
            recursive=not (options and options.non_recursive),
            read_only_recursive=not (options and options.read_only_non_recursive),
            read_only_force_recursive=bool(options and options.read_only_force_recursive),
            create_source=bool(options and options.create_mountpoint),
        )
    if m.type == "volume":
        volume = m.volume_options
        return MountPoint(
            type="volume",
            destination=destination,
            name=m.source,
            driver=(volume and volume.driver_config and volume.driver_config.name) or "local",
            mode="z",
            rw=not m.read_only,
            copy=not (volume and volume.no_copy),
            subpath=volume.subpath if volume else "",
            anonymous=not m.source,
        )
    if m.type == "image":
        return MountPoint(
            type="image",
            destination=destination,
            name=m.source,
            rw=False,
            propagation="rprivate",
            subpath=m.image_options.subpath if m.image_options else "",
        )
    return MountPoint(type="tmpfs", destination=destination, rw=not m.read_only, tmpfs_options=_tmpfs_options(m))


def _tmpfs_options(m: MountSpec) -> tuple[str, ...]:
    o = m.tmpfs_options
    words: list[str] = []
    if m.read_only:
        words.append("ro")
    if o is not None:
        if o.mode:
            words.append(f"mode={o.mode:o}")
        if o.size_bytes:
            words.append(f"size={o.size_bytes}")
        words += ["=".join(pair) for pair in o.options or []]
    return tuple(words)


def needed_sources(host: HostConfig) -> list[str]:
    """Return the paths of the host that must exist before a container with these mounts can be made."""
    return [
        m.source
        for m in host.mounts or []
        if m.type == "bind"
        and m.source.startswith("/")
        and not (m.bind_options is not None and m.bind_options.create_mountpoint)
    ]


def check_mount(m: MountSpec, missing: Collection[str] = ()) -> None:
    """Validate the fields of a Mount against its type. missing: those of the `needed_sources` that do not exist."""
    options = {
        "BindOptions": (m.bind_options, "bind"),
        "VolumeOptions": (m.volume_options, "volume"),
        "TmpfsOptions": (m.tmpfs_options, "tmpfs"),
        "ImageOptions": (m.image_options, "image"),
    }
    known = m.type in ("bind", "volume", "tmpfs", "image")
    for name, (value, kind) in options.items():
        if value is not None and kind != m.type and (known or kind != "image"):
            raise InvalidArgument(f'{name} must not be specified on mount type "{m.type}"')
    refusal = f'invalid mount config for type "{m.type}": '
    try:
        _check_target(m.target)
        if not known:
            raise InvalidArgument("mount type unknown")
        {"bind": _check_bind, "volume": _check_volume, "tmpfs": _check_tmpfs, "image": _check_image}[m.type](m)
        if m.type == "bind" and m.source in missing:
            raise InvalidArgument(f"bind source path does not exist: {m.source}")
    except InvalidArgument as e:
        if e.message.startswith("create "):
            raise
        raise InvalidArgument(refusal + e.message) from None


def _check_bind(m: MountSpec) -> None:
    if not m.source:
        raise InvalidArgument("field Source must not be empty")
    options = m.bind_options
    if options is not None and options.propagation and options.propagation not in PROPAGATIONS:
        raise InvalidArgument(f"invalid propagation mode: {options.propagation}")
    if not m.source.startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{m.source}' mount path must be absolute")


def _check_volume(m: MountSpec) -> None:
    if m.volume_options is not None and m.volume_options.subpath:
        if not m.source:
            raise InvalidArgument("must not set Subpath when using anonymous volumes")
        _check_subpath(m.volume_options.subpath, "volume")
    if not m.source and m.read_only:
        raise InvalidArgument("must not set ReadOnly mode when using anonymous volumes")
    if m.source:
        check_volume_name(m.source)


def _check_tmpfs(m: MountSpec) -> None:
    if m.source:
        raise InvalidArgument("field Source must not be specified")


def _check_image(m: MountSpec) -> None:
    if not m.source:
        raise InvalidArgument("field Source must not be empty")
    if m.image_options is not None and m.image_options.subpath:
        _check_subpath(m.image_options.subpath, "image")


def _check_subpath(subpath: str, kind: str) -> None:
    if subpath.startswith("/") or posixpath.normpath(subpath).split("/")[0] == "..":
        raise InvalidArgument(f"subpath must be a relative path within the {kind}")


def _from_container(spec: str, lookup: Callable[[str], Container]) -> list[MountPoint]:
    """Parse `container[:mode]` and return the mounts it brings."""
    if not spec:
        raise InvalidArgument("volumes-from specification cannot be an empty string")
    ref, _, mode = spec.partition(":")
    mode = mode or "rw"
    try:
        flags = check_mode(mode)
    except Internal as e:
        raise InvalidArgument(e.message) from None
    if flags & PROPAGATIONS or "nocopy" in flags:
        raise InvalidArgument(f"invalid mode: {mode}")
    return [
        replace(m, rw=m.rw and "ro" not in flags, copy=False, anonymous=False, create_source=False)
        for m in lookup(ref).mounts
    ]
