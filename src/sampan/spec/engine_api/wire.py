"""What every wire struct is made of: the base class and Go's scalar types.

The structs are data only. The Go names they carry (`GO`, `GoType.name`) exist for one purpose: error messages of
`sampan.spec.codec` name the Go type of a field, and clients see them.

Source: Engine API 1.51; encoding/json of Go 1.27, as the reference engine answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec


@dataclass(frozen=True, slots=True)
class GoType:
    """The Go name of a scalar and, for integers, its inclusive range."""

    name: str
    low: int = 0
    high: int = 0


@dataclass(frozen=True, slots=True)
class Embedded:
    """Marks a struct whose keys stand in the object of its parent (a Go embedded pointer): None when none is given."""


EMBEDDED = Embedded()

Int64 = Annotated[int, GoType("int64", -(2**63), 2**63 - 1)]
Int = Annotated[int, GoType("int", -(2**63), 2**63 - 1)]
Uint64 = Annotated[int, GoType("uint64", 0, 2**64 - 1)]
Uint = Annotated[int, GoType("uint", 0, 2**64 - 1)]
Uint16 = Annotated[int, GoType("uint16", 0, 2**16 - 1)]
Duration = Annotated[int, GoType("time.Duration", -(2**63), 2**63 - 1)]
FileMode = Annotated[int, GoType("fs.FileMode", 0, 2**32 - 1)]

Strings = list[str] | None
StringMap = dict[str, str] | None
EmptySet = dict[str, dict[str, Any]]
"""Go's map[string]struct{}: every value is `{}`."""
StrSlice = Annotated[list[str] | None, GoType("strslice.StrSlice")]
"""A list of strings that may also be written as one string."""


class Wire(msgspec.Struct, kw_only=True, rename="pascal"):
    """Base of the wire structs: snake_case attributes, Docker's JSON keys, Docker's zero values as defaults.

    `GO` is the Go type; `ROOT` what Go prints before the first dot of a field's path when this struct is the whole
    body; `OMIT_EMPTY` the JSON keys that Docker leaves out when they hold Go's zero value (a nil pointer, for
    pointers); `GO_FIELDS` the Go types of fields whose Python type does not tell (maps and slices of a named type).
    """

    GO: ClassVar[str] = ""
    ROOT: ClassVar[str] = ""
    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset()
    GO_FIELDS: ClassVar[dict[str, str]] = {}
