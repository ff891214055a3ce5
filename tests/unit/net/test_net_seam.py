"""The driver seam, as the text of the code has it: what is of one driver stands in that driver's files."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import sampan.engine.networks
from sampan.engine.networks.drivers import choice
from sampan.engine.networks.records import PREDEFINED

ROOM = Path(next(iter(sampan.engine.networks.__path__)))
# of macvlan and ipvlan, `bridge` is the name of a mode
ITS_OWN = {f"drivers/{name}.py" for name in ("bridge", "bridge_options", "bridge_default", "vlan_options")}
ITS_OWN |= {"drivers/overlay.py", "drivers/overlay_options.py", "drivers/way_out.py"}  # made of bridges, too
# The kernel's word for the flags of a link's port; the table's line; Docker's name of the default network and driver.
NAMES = {"plumbing.py": {"set_bridge_port"}, "drivers/choice.py": {"bridge", "BridgeDriver"}}
DOCKERS_WORD = "bridge"
TEXT = {tokenize.NAME, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def words(path: Path) -> Iterator[tuple[int, str, bool]]:
    """The names and strings of a module that speak of bridges: line, text, whether it is a name. No prose."""
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        docstring = token.type == tokenize.STRING and before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        if token.type in TEXT and not docstring and "bridge" in token.string.lower():
            yield token.start[0], token.string, token.type == tokenize.NAME
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            before = token.type


def test_what_is_of_bridges_stands_in_the_bridge_driver() -> None:
    found = []
    for path in sorted(ROOM.rglob("*.py")):
        name = str(path.relative_to(ROOM))
        if name in ITS_OWN:
            continue
        for line, text, is_name in words(path):
            allowed = text in NAMES.get(name, ()) if is_name else text.strip("\"'") == DOCKERS_WORD
            if not allowed:
                found.append(f"{name}:{line}: {text}")
    assert not found, found


def test_the_search_finds_what_it_is_for(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        '"""A bridge in prose."""\n# and here a bridge\nx = f"br{ensure_bridge}"\nbridge_name = "docker_gwbridge"\n'
    )
    assert [(line, is_name) for line, _, is_name in words(path)] == [(3, False), (4, True), (4, False)]


def test_every_predefined_network_has_its_driver() -> None:
    drivers = choice.drivers()
    assert set(PREDEFINED.values()) <= set(drivers)
    assert all(drivers[driver].capabilities.single for name, driver in PREDEFINED.items() if name != DOCKERS_WORD)
    assert choice.drivers()["bridge"] is not drivers["bridge"], "each engine has its own"
