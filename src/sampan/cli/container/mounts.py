"""`--mount` and `--device` values as the API wants them. Pure; errors are ValueError in docker's words.

Source: docker/cli opts/mount.go and container/opts.go, compared by behaviour.
"""

from __future__ import annotations

import os

from sampan.cli import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FLAGS = ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src")


def parse_mount(text: str) -> dict[str, Any]:
    """Read `type=bind,source=/a,target=/b,readonly` → the API's Mount."""
    from sampan.spec import go_values  # few command lines hold a --mount

    mount: dict[str, Any] = {"Type": "volume"}
    for field in go_values.fields(text):
        name, separator, value = field.partition("=")
        key = name.strip().lower()
        if not separator:
            if key not in _FLAGS:
                raise ValueError(f"invalid field '{field}' must be a key=value pair")
            value = "true"
        _set(mount, key, value, field)
    if not mount["Type"]:
        raise ValueError("type is required")
    if not mount.get("Target"):
        raise ValueError("target is required")
    for kind, section in (
        ("volume", "VolumeOptions"),
        ("image", "ImageOptions"),
        ("bind", "BindOptions"),
        ("tmpfs", "TmpfsOptions"),
    ):
        if section in mount and mount["Type"] != kind:
            raise ValueError(f"cannot mix '{kind}-*' options with mount type '{mount['Type']}'")
    _check_recursion(mount)
    if "VolumeOptions" in mount:
        mount["VolumeOptions"].setdefault("DriverConfig", {})
    return mount


def _check_recursion(mount: dict[str, Any]) -> None:
    """Check what a read-only bind says of its submounts: that they stay writable, or must be read-only too."""
    bind = mount.get("BindOptions") or {}
    for option, key in (("writable", "ReadOnlyNonRecursive"), ("readonly", "ReadOnlyForceRecursive")):
        if not bind.get(key):
            continue
        wants = "" if mount.get("ReadOnly") else "readonly"
        if not wants and option == "readonly" and bind.get("Propagation") != "rprivate":
            wants = "bind-propagation=rprivate"
        if wants:
            raise ValueError(f"option 'bind-recursive={option}' requires '{wants}' to be specified in conjunction")


def _set(mount: dict[str, Any], key: str, value: str, field: str) -> None:
    if key == "type":
        mount["Type"] = value.lower()
    elif key in ("source", "src"):
        relative = value == "." or value.startswith(("./", "../")) or value == ".."
        mount["Source"] = os.path.abspath(value) if relative else value
    elif key in ("target", "dst", "destination"):
        mount["Target"] = value
    elif key in ("readonly", "ro"):
        mount["ReadOnly"] = _boolean(key, value)
    elif key == "consistency":
        mount["Consistency"] = value.lower()
    elif key == "bind-propagation":
        mount.setdefault("BindOptions", {})["Propagation"] = value.lower()
    elif key == "bind-nonrecursive":
        mount.setdefault("BindOptions", {})["NonRecursive"] = _boolean(key, value)
    elif key == "bind-create-src":
        mount.setdefault("BindOptions", {})["CreateMountpoint"] = _boolean(key, value)
    elif key == "bind-recursive":
        options = {"enabled": {}, "disabled": {"NonRecursive": True}, "writable": {"ReadOnlyNonRecursive": True}}
        options["readonly"] = {"ReadOnlyForceRecursive": True}
        if value not in options:
            raise ValueError(
                f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")'
            )
        mount.setdefault("BindOptions", {}).update(options[value])
    elif key == "volume-subpath":
        mount.setdefault("VolumeOptions", {})["Subpath"] = value
    elif key == "volume-nocopy":
        mount.setdefault("VolumeOptions", {})["NoCopy"] = _boolean(key, value)
    elif key == "volume-label":
        label, _, content = value.partition("=")
        mount.setdefault("VolumeOptions", {}).setdefault("Labels", {})[label] = content
    elif key == "volume-driver":
        mount.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})["Name"] = value
    elif key == "volume-opt":
        name, _, content = value.partition("=")
        config = mount.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})
        config.setdefault("Options", {})[name] = content
    elif key == "image-subpath":
        mount.setdefault("ImageOptions", {})["Subpath"] = value
    elif key == "tmpfs-size":
        try:
            mount.setdefault("TmpfsOptions", {})["SizeBytes"] = values.size_bytes(value)
        except ValueError:
            raise ValueError(f"invalid value for {key}: {value}") from None
    elif key == "tmpfs-mode":
        try:
            mount.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
        except ValueError:
            raise ValueError(f"invalid value for {key}: {value}") from None
    else:
        raise ValueError(f"unexpected key '{key}' in '{field}'")


def _boolean(key: str, value: str) -> bool:
    from sampan.spec import go_values

    try:
        return go_values.boolean(value)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None


def is_cdi(text: str) -> bool:
    """Return whether a device is named by CDI: `vendor.com/class=name`."""
    kind, equals, _ = text.partition("=")
    return bool(equals) and "/" in kind and not kind.startswith("/")


def parse_device(text: str) -> dict[str, str]:
    """Read `host[:container][:rwm]` → the API's DeviceMapping."""
    source, _, rest = text.partition(":")
    target, permissions = source, "rwm"
    if rest:
        parts = rest.split(":")
        if len(parts) > 2:
            raise ValueError(f"invalid device specification: {text}")
        if _is_permission(parts[0]) and len(parts) == 1:
            permissions = parts[0]
        else:
            target = parts[0] or source
            permissions = parts[1] if len(parts) > 1 else permissions
    if not _is_permission(permissions):
        raise ValueError(f"bad mode specified: {permissions}")
    if not os.path.isabs(target) or not os.path.isabs(source):
        raise ValueError(f"{source if not os.path.isabs(source) else target} is not an absolute path")
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": permissions}


def _is_permission(text: str) -> bool:
    return 0 < len(text) <= 3 and set(text) <= set("rwm") and len(set(text)) == len(text)


def bind(text: str) -> str | None:
    """Read one `-v` value: as a bind (its relative source made absolute), or None for an anonymous volume."""
    source, colon, rest = text.partition(":")
    if not colon:
        return None
    if not source or not all(rest.split(":")):
        raise ValueError(f"invalid spec: {text}: empty section between colons")
    if source.startswith("."):
        source = os.path.abspath(source)
    return f"{source}:{rest}"
