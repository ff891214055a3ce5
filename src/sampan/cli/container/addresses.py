"""Flag values that name places: hosts, addresses, networks, links, device rules, ports.

Each function takes the text of one flag and returns its value, or raises ValueError in docker's words. `ports` turns
all `--publish` values into the API's PortBindings and ExposedPorts. Pure.

Source: docker/cli opts/, docker/go-connections nat.
"""

from __future__ import annotations

import _socket

from sampan.cli import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def is_ip(text: str) -> bool:
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, text)
            return True
        except OSError:
            continue
    return False


def is_mac(text: str) -> bool:
    """Return whether a text is six, eight or twenty bytes, as Go's net.ParseMAC takes them."""
    parts = text.replace("-", ":").split(":")
    return len(parts) in (6, 8, 20) and all(len(p) == 2 and set(p.lower()) <= set("0123456789abcdef") for p in parts)


def ip(text: str) -> str:
    if not is_ip(text.strip()):
        raise ValueError(f"IP address is not correctly formatted: {text}")
    return text.strip()


def dns_search(text: str) -> str:
    domain = text.strip()
    labels = domain.split(".")
    good = (
        domain[:1] != "-"
        and all(label and label.replace("-", "a").replace("_", "a").isalnum() for label in labels)
        and len(domain) < 255
    )
    if domain != "." and not good:
        raise ValueError(f"{domain} is not a valid domain")
    return domain


def extra_host(text: str) -> str:
    """Check `host:ip` or `host=ip`; `host-gateway` stands for the engine's own address."""
    if "=" in text:
        host, _, address = text.partition("=")
    else:
        host, separator, address = text.partition(":")
        if not separator:
            raise ValueError(f'bad format for add-host: "{text}"')
    if not host or not address:
        raise ValueError(f'bad format for add-host: "{text}"')
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address != "host-gateway" and not is_ip(address):
        raise ValueError(f'invalid IP address in add-host: "{address}"')
    return f"{host}:{address}"


def link(text: str) -> str:
    if not text:
        raise ValueError("empty string specified for links")
    if text.count(":") > 1:
        raise ValueError(f"bad format for links: {text}")
    return text


def device_rule(text: str) -> str:
    kind, _, rest = text.partition(" ")
    numbers, _, access = rest.partition(" ")
    major, _, minor = numbers.partition(":")
    good = (
        all(n == "*" or n.isdecimal() for n in (major, minor))
        and access
        and set(access) <= set("rwm")
        and len(access) <= 3
    )
    if kind not in ("a", "b", "c") or not good:
        raise ValueError(f"invalid device cgroup format '{text}'")
    return text


def network(text: str) -> dict[str, Any]:
    """Read `name`, or `name=N,alias=A,ip=…,ip6=…,mac-address=…,driver-opt=k=v,link-local-ip=…,gw-priority=1`."""
    if "=" not in text:
        return {"Target": text}
    from sampan.spec import go_values

    out: dict[str, Any] = {"Target": ""}
    for field in go_values.fields(text):
        key, separator, value = field.partition("=")
        key, value = key.strip().lower(), value.strip()
        if not separator or not key:
            raise ValueError(f"invalid field {field}")
        if key == "name":
            out["Target"] = value
        elif key == "alias":
            out.setdefault("Aliases", []).append(value)
        elif key == "ip":
            out["IPv4Address"] = value
        elif key == "ip6":
            out["IPv6Address"] = value
        elif key == "mac-address":
            out["MacAddress"] = value
        elif key == "link-local-ip":
            out.setdefault("LinkLocalIPs", []).append(value)
        elif key == "driver-opt":
            name, equals, setting = value.partition("=")
            if not equals or not name.strip():
                raise ValueError(
                    f"invalid key value pair format in driver options: {value}"
                    if equals
                    else "invalid key value pair format in driver options"
                )
            out.setdefault("DriverOpts", {})[name.strip().lower()] = setting.strip()
        elif key == "gw-priority":
            try:
                out["GwPriority"] = values.integer(value)
            except ValueError:
                raise ValueError(f"invalid gw-priority ({value}): invalid syntax") from None
        else:
            raise ValueError(f"invalid field key {key}")
    if not out["Target"]:
        raise ValueError("network name/id is not specified")
    return out


def publish(text: str) -> list[str]:
    """Turn the long form `target=80,published=8080,protocol=tcp` as short specs; a short one as it is."""
    if "=" not in text:
        return [text]
    from sampan.spec import go_values

    settings = {"protocol": "tcp", "target": "", "published": ""}
    for field in go_values.fields(text):
        key, _, value = field.partition("=")
        if key not in (*settings, "mode"):
            raise ValueError(f"invalid field key {key}")
        settings[key] = value.lower()
    if not settings["target"]:
        raise ValueError("missing mandatory field target")
    return [f"{settings['published']}:{settings['target']}/{settings['protocol']}"]


def ports(specs: list[str]) -> dict[str, list[dict[str, str]]]:
    """Turn all `-p` values into {"80/tcp": [{"HostIp", "HostPort"}]}."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for spec in [short for text in specs for short in publish(text)]:
        for port, binding in _port_spec(spec):
            bindings.setdefault(port, []).append(binding)
    return bindings


def _port_spec(spec: str) -> list[tuple[str, dict[str, str]]]:
    address, host, inside = "", "", spec
    parts = spec.rsplit(":", 2)
    if len(parts) == 2:
        host, inside = parts
    elif len(parts) == 3:
        address, host, inside = parts
    protocol = "tcp"
    if "/" in inside:
        inside, _, protocol = inside.partition("/")
        protocol = protocol.lower()
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address and not is_ip(address):
        if address.count(":") == 1 and not spec.startswith("["):
            raise ValueError(f"Invalid ip address {address}: address {address}:: too many colons in address")
        raise ValueError(f"Invalid ip address: {address}")
    if not inside:
        raise ValueError(f"No port specified: {spec}<empty>")
    first, last = _range(inside, "containerPort")
    host_first, host_last = _range(host, "hostPort") if host else (0, 0)
    if protocol not in ("tcp", "udp", "sctp"):
        raise ValueError(f"Invalid proto: {protocol}")
    if host and last - first != host_last - host_first and last != first:
        raise ValueError(f"Invalid ranges specified for container and host Ports: {inside} and {host}")
    out = []
    for offset in range(last - first + 1):
        host_port = str(host_first + offset) if host else ""
        if host and last == first and host_last != host_first:
            host_port = f"{host_first}-{host_last}"  # the engine takes the first that is free
        out.append((f"{first + offset}/{protocol}", {"HostIp": address, "HostPort": host_port}))
    return out


def exposed(texts: list[str]) -> list[str]:
    """Turn all `--expose` values into ["80/tcp", …]."""
    out = []
    for text in texts:
        if ":" in text:
            raise ValueError(f"invalid port format for --expose: {text}")
        port, _, protocol = text.partition("/")
        try:
            first, last = _range(port, "port")
        except ValueError:
            low, _, high = port.partition("-")
            reason = f'strconv.ParseUint: parsing "{port}": invalid syntax'
            if low.isdecimal() and high.isdecimal():
                reason = f"Invalid range specified for the Port: {port}"
            raise ValueError(f"invalid range format for --expose: {text}, error: {reason}") from None
        out += [f"{number}/{(protocol or 'tcp').lower()}" for number in range(first, last + 1)]
    return out


def _range(text: str, what: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    try:
        low = int(first)
        high = int(last) if dash else low
        if not (first.isdecimal() and (last.isdecimal() or not dash)) or not 0 <= low <= high <= 65535:
            raise ValueError
    except ValueError:
        raise ValueError(f"Invalid {what}: {text}") from None
    return low, high
