"""Every queue, buffer, pool and cache of the engine has a bound, or stands in docs/concepts/bounds.md with its reason.

Not looked at: the command line, whose process is its user's own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_structure import nodes

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/concepts/bounds.md"

# What holds things for somebody else: name → which argument bounds it, by place or by name.
KINDS: dict[str, tuple[int, str]] = {
    "Queue": (0, "maxsize"),
    "LifoQueue": (0, "maxsize"),
    "PriorityQueue": (0, "maxsize"),
    "SimpleQueue": (9, "-"),
    "deque": (1, "maxlen"),
    "ThreadPoolExecutor": (0, "max_workers"),
    "ProcessPoolExecutor": (0, "max_workers"),
    "PacedThreads": (0, "limit"),
    "StreamReader": (0, "limit"),
    "open_connection": (9, "limit"),
    "open_unix_connection": (9, "limit"),
    "start_server": (9, "limit"),
    "start_unix_server": (9, "limit"),
    "lru_cache": (0, "maxsize"),
}
UNBOUNDED_VALUES = ("0", "None", "-1")


def bounded(call: ast.Call, place: int, name: str) -> bool:
    """Whether a call names a bound that is one."""
    given = [ast.unparse(argument) for argument in call.args]
    value = next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)
    if value is None and len(given) > place:
        value = given[place]
    return value is not None and value not in UNBOUNDED_VALUES


def last(name: ast.expr) -> str:
    """The last part of a dotted name; "" for what is none."""
    return name.attr if isinstance(name, ast.Attribute) else name.id if isinstance(name, ast.Name) else ""


def looked_at(module: str) -> bool:
    return not module.startswith(("cli.", "client."))


def unbounded() -> Iterator[tuple[str, str]]:
    """(module, kind) of everything without a bound in its own call."""
    for module, call in nodes(ast.Call):
        name = last(call.func)
        if looked_at(module) and name in KINDS and not bounded(call, *KINDS[name]):
            yield module, name
    for kind in (ast.FunctionDef, ast.AsyncFunctionDef):
        for module, function in nodes(kind):
            names = {last(each) for each in function.decorator_list}
            takes = function.args.args or function.args.kwonlyargs or function.args.vararg or function.args.kwarg
            if looked_at(module) and takes and names & {"cache", "lru_cache"}:
                yield module, (names & {"cache", "lru_cache"}).pop()


def explained() -> set[tuple[str, str]]:
    """The rows of the page's last table: | `engine/paced.py` | `SimpleQueue` | why |."""
    rows = re.findall(r"^\| `([\w/]+)\.py` \| `(\w+)` \| [^|]{10,} \|$", PAGE.read_text(), re.MULTILINE)
    return {(path.replace("/", "."), kind) for path, kind in rows}


def test_what_has_no_bound_of_its_own_is_explained() -> None:
    assert set(unbounded()) == explained()


@pytest.mark.parametrize(
    ("source", "has"),
    [
        ("asyncio.Queue()", False),
        ("asyncio.Queue(0)", False),
        ("asyncio.Queue(WAITING)", True),
        ("deque(maxlen=None)", False),
        ("deque((), 5)", True),
        ("deque(items)", False),
        ("lru_cache(maxsize=None)", False),
        ("lru_cache(maxsize=4)", True),
        ("ThreadPoolExecutor(thread_name_prefix='x')", False),
        ("asyncio.open_connection(sock=ours, limit=5)", True),
    ],
)
def test_a_bound_is_seen(source: str, has: bool) -> None:
    call = ast.parse(source, mode="eval").body
    assert isinstance(call, ast.Call)
    assert bounded(call, *KINDS[ast.unparse(call.func).rpartition(".")[2]]) is has


def test_numbers_of_the_page_are_those_of_the_code() -> None:
    """A row that ends in `NAME` = number names a constant of the file it names."""
    rows = re.findall(r"`([\w/]+\.py)` `(\w+)` = ([\d_]+(?: [KMG]iB)?)", PAGE.read_text())
    assert len(rows) > 30
    units = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    for path, name, shown in rows:
        number, _, unit = shown.partition(" ")
        found = re.search(
            rf"^_?{name.lstrip('_')}(?:: [\w\[\]]+)? = (.+?)(?:  #.*)?$",
            (ROOT / "src/sampan" / path).read_text(),
            re.MULTILINE,
        )
        assert found, (path, name)
        value = eval(found[1], {"__builtins__": {}}, {"CHUNK": 1 << 20})
        assert value == int(number.replace("_", "")) * units[unit], (path, name, value)
