"""The `--name=value` flags of an instruction, checked against those it knows. Pure.

Source: messages as Docker Engine 28.5.
"""

from __future__ import annotations

from collections.abc import Iterable

from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.gotext import nearest


class Flags:
    """`text` flags take a value, `many` may come again, `switch` are true, false, or alone."""

    def __init__(
        self,
        given: Iterable[str],
        *,
        text: tuple[str, ...] = (),
        many: tuple[str, ...] = (),
        switch: tuple[str, ...] = (),
    ) -> None:
        """Raises: DockerfileError."""
        self.values: dict[str, list[str]] = {}
        for flag in given:
            name, equals, value = flag.removeprefix("--").partition("=")
            if name not in (*text, *many, *switch):
                raise DockerfileError(f"unknown flag: --{name}{suggestion(name, sorted((*text, *many, *switch)))}")
            if name in self.values and name not in many:
                raise DockerfileError(f"duplicate flag specified: --{name}")
            if (not equals and name not in switch) or (equals and not value and name in switch):
                raise DockerfileError(f"missing a value on flag: --{name}")
            if name in switch and value.lower() not in ("", "true", "false"):
                raise DockerfileError(f"expecting boolean value for flag --{name}, not: {value}")
            self.values.setdefault(name, []).append(value)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.values)

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name, [default])[0]

    def many(self, name: str) -> tuple[str, ...]:
        return tuple(self.values.get(name, ()))

    def switch(self, name: str) -> bool:
        return name in self.values and self.values[name][0].lower() != "false"


def suggestion(word: str, options: Iterable[str]) -> str:
    """Return ` (did you mean …?)`, or nothing."""
    match = nearest(word, options)
    return f" (did you mean {match}?)" if match else ""
