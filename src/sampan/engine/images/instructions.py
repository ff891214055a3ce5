"""The Dockerfile instructions that `import --change` and `commit --change` accept, applied to a config. Pure.

Not here: the builder's parser (its errors carry line numbers, its instructions make layers). Known words:
CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR.
Source: Dockerfile reference; error texts as Docker Engine 28.5 answers them.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sampan.errors import InvalidArgument
from sampan.spec import oci_image

SHELL = ["/bin/sh", "-c"]
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_UNITS_NS = {
    "ns": 1, "us": 1_000, "µs": 1_000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_SIGNALS = frozenset(
    [
        "ABRT",
        "ALRM",
        "BUS",
        "CHLD",
        "CLD",
        "CONT",
        "FPE",
        "HUP",
        "ILL",
        "INT",
        "IO",
        "IOT",
        "KILL",
        "PIPE",
        "POLL",
        "PROF",
        "PWR",
        "QUIT",
        "SEGV",
        "STKFLT",
        "STOP",
        "SYS",
        "TERM",
        "TRAP",
        "TSTP",
        "TTIN",
        "TTOU",
        "URG",
        "USR1",
        "USR2",
        "VTALRM",
        "WINCH",
        "XCPU",
        "XFSZ",
        "RTMIN",
        "RTMAX",
    ]
)
Config = dict[str, Any]


def apply(config: Mapping[str, Any] | None, changes: Iterable[str]) -> Config:
    """The config after these instructions, one or more a string. Raises: InvalidArgument in Docker's words."""
    result = oci_image.run_config(dict(config or {}))
    text = "\n".join(changes)
    if not text and not list(changes):
        return result
    lines = _logical_lines(text)
    if not lines:
        raise InvalidArgument("file with no instructions")
    words = [[*line.split(None, 1), ""][:2] for line in lines]
    for word, _ in words:
        if word.upper() not in _INSTRUCTIONS:
            raise InvalidArgument(f"{word} is not a valid change command")
    for word, rest in words:
        _INSTRUCTIONS[word.upper()](result, rest.strip())
    return oci_image.run_config(result)


def _logical_lines(text: str) -> list[str]:
    """Lines without comments and empty ones; a backslash at the end joins."""
    lines: list[str] = []
    pending = ""
    for line in text.split("\n"):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if stripped.endswith("\\"):
            pending += stripped[:-1]
            continue
        lines.append(pending + stripped)
        pending = ""
    if pending.strip():
        lines.append(pending)
    return lines


def _need(instruction: str, rest: str, how_many: str = "at least one argument") -> None:
    if not rest:
        raise InvalidArgument(f"{instruction} requires {how_many}")


def _env(config: Config, rest: str) -> None:
    _need("ENV", rest)
    environment = list(config.get("Env") or [])
    scope = _scope(config)
    for key, value in _pairs("ENV", rest):
        key, value = expand(key, scope), expand(value, scope)
        if not key:
            raise InvalidArgument("ENV names can not be blank")
        environment = set_env(environment, key, value)
    config["Env"] = environment


def _label(config: Config, rest: str) -> None:
    _need("LABEL", rest)
    labels = dict(config.get("Labels") or {})
    scope = _scope(config)
    for key, value in _pairs("LABEL", rest):
        key, value = expand(key, scope), expand(value, scope)
        if not key:
            raise InvalidArgument("LABEL names can not be blank")
        labels[key] = value
    config["Labels"] = labels


def _command(config: Config, rest: str) -> None:
    config["Cmd"] = _words_or_shell(rest) or None
    config["ArgsEscaped"] = False


def _entrypoint(config: Config, rest: str) -> None:
    config["Entrypoint"] = _words_or_shell(rest) or None


def _expose(config: Config, rest: str) -> None:
    _need("EXPOSE", rest)
    ports = dict(config.get("ExposedPorts") or {})
    for word in _split(expand_keeping_words(rest, _scope(config))):
        ports.update((port, {}) for port in parse_port(word))
    config["ExposedPorts"] = ports


def _volume(config: Config, rest: str) -> None:
    _need("VOLUME", rest)
    scope = _scope(config)
    given = _json_words(rest)
    volumes = dict(config.get("Volumes") or {})
    for word in _split(rest) if given is None else given:
        path = expand(word, scope) if given is None else word
        if not path.strip():
            raise InvalidArgument("VOLUME specified can not be an empty string")
        volumes[path.strip()] = {}
    config["Volumes"] = volumes


def _user(config: Config, rest: str) -> None:
    _need("USER", rest, "exactly one argument")
    config["User"] = expand(rest, _scope(config))


def _workdir(config: Config, rest: str) -> None:
    _need("WORKDIR", rest, "exactly one argument")
    path = expand(rest, _scope(config))
    config["WorkingDir"] = posixpath.normpath(posixpath.join("/", config.get("WorkingDir") or "", path))


def _onbuild(config: Config, rest: str) -> None:
    _need("ONBUILD", rest)
    trigger = rest.split(None, 1)[0].upper()
    if trigger == "ONBUILD":
        raise InvalidArgument("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise InvalidArgument(f"{trigger} isn't allowed as an ONBUILD trigger")
    config["OnBuild"] = [*(config.get("OnBuild") or []), rest]


def _stopsignal(config: Config, rest: str) -> None:
    _need("STOPSIGNAL", rest, "exactly one argument")
    name = expand(rest, _scope(config))
    known = name.isdigit() and 0 < int(name) <= 64
    if not known and not re.fullmatch(rf"(SIG)?({'|'.join(_SIGNALS)}|RTMIN\+\d+|RTMAX-\d+)", name.upper()):
        raise InvalidArgument(f"invalid signal: {name}")
    config["StopSignal"] = name


def _healthcheck(config: Config, rest: str) -> None:
    _need("HEALTHCHECK", rest)
    health: dict[str, Any] = {}
    while rest.startswith("--"):
        option, _, rest = rest.partition(" ")
        rest = rest.strip()
        key, _, value = option[2:].partition("=")
        if key not in _HEALTH_OPTIONS:
            raise InvalidArgument(f"unknown flag: --{key}")
        field = _HEALTH_OPTIONS[key]
        health[field] = _retries(value) if field == "Retries" else _health_duration(key, value)
    kind, _, command = rest.partition(" ")
    command = command.strip()
    if kind.upper() == "NONE":
        if command:
            raise InvalidArgument("HEALTHCHECK NONE takes no arguments")
        config["Healthcheck"] = {"Test": ["NONE"]}
        return
    if kind.upper() != "CMD":
        raise InvalidArgument(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    if not command:
        raise InvalidArgument("Missing command after HEALTHCHECK CMD")
    words = _json_words(command)
    test = ["CMD-SHELL", command] if words is None else ["CMD", *words]
    config["Healthcheck"] = {"Test": test, **{k: v for k, v in health.items() if v}}


_HEALTH_OPTIONS = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
    "retries": "Retries",
}
_INSTRUCTIONS: dict[str, Callable[[Config, str], None]] = {
    "CMD": _command,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


def _retries(value: str) -> int:
    try:
        count = int(value)
    except ValueError:
        raise InvalidArgument(f'strconv.ParseInt: parsing "{value}": invalid syntax') from None
    if count < 0:
        raise InvalidArgument(f"--retries cannot be negative ({count})")
    return count


def _health_duration(key: str, value: str) -> int:
    """Go's duration syntax, in ns; zero or at least a millisecond."""
    ns = parse_duration(value)
    if 0 < ns < 10**6 or ns < 0:
        raise InvalidArgument(f'Interval "{key}" cannot be less than 1ms')
    return ns


def parse_duration(text: str) -> int:
    """`1h2m3.5s` in nanoseconds. Raises: InvalidArgument in Go's words."""
    body = text.lstrip("+-")
    if body == "0":
        return 0
    parts = _DURATION.findall(body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        raise InvalidArgument(f'time: invalid duration "{text}"')
    total = sum(int(float(number) * _UNITS_NS[unit]) for number, unit in parts)
    return -total if text.startswith("-") else total


def parse_port(word: str) -> list[str]:
    """`80`, `80/udp`, `8000-8010/tcp` as `port/proto` strings. Raises: InvalidArgument."""
    ports, _, protocol = word.partition("/")
    protocol = protocol.lower() or "tcp"
    first, dash, last = ports.rpartition(":")[2].partition("-")
    if not first.isdigit() or (dash and not last.isdigit()) or int(first) > 65535 or int(last or first) > 65535:
        raise InvalidArgument(f"Invalid containerPort: {ports}")
    if protocol not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f"Invalid proto: {protocol}")
    if int(last or first) < int(first):
        raise InvalidArgument(f"Invalid containerPort: {ports}")
    return [f"{port}/{protocol}" for port in range(int(first), int(last or first) + 1)]


def set_env(environment: list[str], key: str, value: str) -> list[str]:
    """`key=value` in the place of an older one, or at the end."""
    for index, entry in enumerate(environment):
        if entry.partition("=")[0] == key:
            return [*environment[:index], f"{key}={value}", *environment[index + 1 :]]
    return [*environment, f"{key}={value}"]


def _scope(config: Config) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in config.get("Env") or [])


def _json_words(rest: str) -> list[str] | None:
    """The exec form `["a", "b"]`, or None when it is not one."""
    if not rest.startswith("["):
        return None
    try:
        words = json.loads(rest)
    except ValueError:
        return None
    return words if isinstance(words, list) and all(isinstance(w, str) for w in words) else None


def _words_or_shell(rest: str) -> list[str]:
    words = _json_words(rest)
    if words is not None:
        return words
    return [*SHELL, rest] if rest else []


def _split(text: str) -> list[str]:
    """Words at blanks; quotes and backslashes keep blanks together and stay in the word."""
    words, word, quote, i = [], "", "", 0
    while i < len(text):
        c = text[i]
        if c == "\\" and quote != "'" and i + 1 < len(text):
            word += text[i : i + 2]
            i += 2
            continue
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c in " \t":
            if word:
                words.append(word)
            word = ""
            i += 1
            continue
        word += c
        i += 1
    return [*words, word] if word else words


def _pairs(instruction: str, rest: str) -> list[tuple[str, str]]:
    """`k=v k2="v 2"`, or the old `k the rest`."""
    words = _split(rest)
    if "=" not in words[0]:
        key, *value = rest.split(None, 1)
        if not value:
            raise InvalidArgument(f"{instruction} must have two arguments")
        return [(key, value[0])]
    for word in words:
        if "=" not in word:
            raise InvalidArgument(f"Syntax error - can't find = in {json.dumps(word)}. Must be of the form: name=value")
    return [(key, value) for key, _, value in (word.partition("=") for word in words)]


_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+])([^}]*))?\})")


def expand(word: str, scope: Mapping[str, str]) -> str:
    """Take quotes and backslashes away, replace `$V`, `${V}`, `${V:-w}`, `${V:+w}` outside single quotes."""
    out, quote, i = "", "", 0
    while i < len(word):
        c = word[i]
        if quote == "'":
            quote, out = ("", out) if c == "'" else (quote, out + c)
        elif c == "\\" and i + 1 < len(word):
            i += 1
            out += word[i] if not quote or word[i] in '"$\\' else "\\" + word[i]
        elif c == "\\":
            out += c
        elif c == quote:
            quote = ""
        elif c in "'\"" and not quote:
            quote = c
        elif c == "$" and (match := _VARIABLE.match(word, i)):
            out += _value(match, scope)
            i = match.end() - 1
        else:
            out += c
        i += 1
    return out


def expand_keeping_words(text: str, scope: Mapping[str, str]) -> str:
    """Variables may hold several words (EXPOSE $PORTS)."""
    return " ".join(expand(word, scope) for word in _split(text))


def _value(match: re.Match[str], scope: Mapping[str, str]) -> str:
    name = match[1] or match[2]
    found = scope.get(name)
    operator, word = match[3], match[4] or ""
    if operator is None:
        return found or ""
    present = bool(found) if operator.startswith(":") else found is not None
    if operator.endswith("-"):
        return found or "" if present else expand(word, scope)
    return expand(word, scope) if present else ""
