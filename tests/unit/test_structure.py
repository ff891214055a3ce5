"""The rules of the code that can be counted: what imports what, what is named how, how long things are, one home each.

Sets that begin with an underscore hold what does not follow a rule yet. They may lose members, never gain one: who
makes the code follow the rule takes the entry out. What breaks a rule for good stands in a table, with the reason.

Generated code (`*_pb2.py`, `*_grpc.py`) is not looked at.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

import sampan

Node = TypeVar("Node", bound=ast.AST)
ROOT = Path(sampan.__file__).parent
LONGEST_FUNCTION = 60
LONGEST_FILE = 500
MOST_PUBLIC_METHODS = 20

_CIRCLES: set[frozenset[str]] = set()

SHARED_NAMES = {
    "Container": "the runtime's running container and the engine's record of it: one noun seen from two processes",
    "Task": "the supervisor's task and its shim's: one noun seen from two processes",
}

MANY_METHODS = {
    "supervisor.client.Supervisor": "a method for each operation of the supervisor's API",
    "supervisor.link.ShimLink": "a method for each message to a shim",
    "runtime.container.Container": "the verbs of an OCI runtime, and what is asked about a container",
    "engine.volumes.service.Volumes": "the verbs of volumes, and what containers do with them",
}
_LONG_FUNCTIONS: set[str] = set()
_LONG_FILES = {
    "engine.store",
    "engine.volumes.service",
    "runtime.container",
    "supervisor.client",
    "supervisor.shim.task",
}

TASK_OWNERS = {
    "engine.background": "holds the tasks that a service starts on its own until they end",
    "supervisor.starter": "reaps the supervisor that it has started; `stop` cancels it",
}
_TASKS = {
    "engine.builder.solver.flights",
    "engine.builder.solver.sandboxes",
    "supervisor.client",
    "supervisor.logs.reader",
    "supervisor.kept.keeper",
    "supervisor.nursery",
    "supervisor.tasks",
}

TYPE_IGNORES = 31
"""As many `# type: ignore` there are. A change should take some out, and lower the number."""


@cache
def modules() -> Mapping[str, ast.Module]:
    """Every module of the package that a person wrote, by its name below `sampan`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        if not path.name.endswith(("_pb2.py", "_grpc.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(), str(path))
    return found


def imported(module: ast.Module) -> Iterator[str]:
    """What a module imports from the package, wherever the statement stands: in a function, under TYPE_CHECKING."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [
                f"{node.module}.{alias.name}"
                if f"{node.module}.{alias.name}".removeprefix("sampan.") in modules()
                else node.module
                for alias in node.names
            ]
        else:
            continue
        yield from (name.removeprefix("sampan.") for name in names if name.startswith("sampan."))


def circles(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """The sets of modules that reach each other (Tarjan's strongly connected components of two and more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = set()

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph.get(name, ()):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            members = frozenset(stack[stack.index(name) :])
            del stack[stack.index(name) :]
            if len(members) > 1:
                found.add(members)

    for name in graph:
        if name not in index:
            visit(name)
    return found


@cache
def walked() -> list[tuple[str, ast.AST]]:
    """All nodes of all modules, each with the module it stands in."""
    return [(name, node) for name, tree in modules().items() for node in ast.walk(tree)]


@cache
def nodes(kind: type[Node]) -> list[tuple[str, Node]]:
    """All nodes of one kind."""
    return [(name, node) for name, node in walked() if isinstance(node, kind)]


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method, nested ones too."""
    yield from nodes(ast.FunctionDef)
    yield from nodes(ast.AsyncFunctionDef)


@cache
def looked_up() -> Mapping[str, set[str]]:
    """Which modules look up an attribute, by its name. `os.strerror` is not `error.strerror`."""
    found: dict[str, set[str]] = {}
    for name, node in nodes(ast.Attribute):
        if not (node.attr == "strerror" and ast.unparse(node.value) == "os"):
            found.setdefault(node.attr, set()).add(name)
    return found


@cache
def said() -> Mapping[str, set[str]]:
    """Which modules hold a text in quotes, parts of f-strings included; documentation does not count."""
    documentation = {id(node.value) for _, node in nodes(ast.Expr)}
    found: dict[str, set[str]] = {}
    for name, node in nodes(ast.Constant):
        if isinstance(node.value, str) and id(node) not in documentation:
            found.setdefault(node.value, set()).add(name)
    return found


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"f"}, "f": {"g"}, "g": {"e", "a"}}
    assert circles(graph) == {frozenset("bc"), frozenset("efg")}


def test_imports_are_found_wherever_they_stand() -> None:
    source = (
        "from sampan.spec import times\nif TYPE_CHECKING:\n  from sampan.errors import words\n"
        "def f():\n  import sampan.cli.main\n  import os\n"
    )
    assert sorted(imported(ast.parse(source))) == ["cli.main", "errors", "spec.times"]


def test_modules_do_not_import_each_other() -> None:
    graph = {name: set(imported(tree)) - {name} for name, tree in modules().items()}
    assert circles(graph) <= _CIRCLES


def test_a_class_name_has_one_meaning() -> None:
    counted = Counter(node.name for _, node in nodes(ast.ClassDef))
    assert {name for name, count in counted.items() if count > 1} <= SHARED_NAMES.keys()


def test_classes_have_few_public_methods() -> None:
    many = {
        f"{module}.{node.name}"
        for module, node in nodes(ast.ClassDef)
        if sum(
            isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) and not part.name.startswith("_")
            for part in node.body
        )
        > MOST_PUBLIC_METHODS
    }
    assert many <= MANY_METHODS.keys()


def test_functions_are_short() -> None:
    long = {
        f"{module}.{node.name}"
        for module, node in functions()
        if (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION
    }
    assert not long


def test_files_are_short() -> None:
    long = {name for name, tree in modules().items() if tree.body and (tree.body[-1].end_lineno or 0) > LONGEST_FILE}
    assert long <= _LONG_FILES


def test_packages_hold_nothing_but_modules() -> None:
    assert not [path for path in ROOT.rglob("__init__.py") if path.stat().st_size]


def test_every_task_has_an_owner() -> None:
    """`create_task` is called by who holds the task until it ends; a TaskGroup does, and may be called by anyone."""
    loose = set()
    for name, node in nodes(ast.Call):
        called = ast.unparse(node.func)
        if called.endswith(("create_task", "ensure_future")) and not called.endswith("group.create_task"):
            loose.add(name)
    assert loose - TASK_OWNERS.keys() <= _TASKS


def test_no_cancellation_is_lost() -> None:
    """`wait_for` drops a cancellation that comes just as its future is done (Python 3.11); `timeout` does not."""
    assert not {name for name, call in nodes(ast.Call) if ast.unparse(call.func) == "asyncio.wait_for"}


@pytest.mark.parametrize(
    ("word", "homes", "pending"),
    [
        # RFC 3339; ps has formats of its own
        ("strftime", {"spec.times", "engine.containers.top"}, set()),
        ("strptime", set(), set()),
        ("isoformat", set(), set()),
        ("fromisoformat", set(), set()),
        # copying the data of files
        ("copy_file_range", {"linux.copying"}, set()),
        ("SEEK_HOLE", {"linux.copying"}, set()),
        # it leaves its flags out: descriptors that it receives are inherited by whatever is started next
        ("recv_fds", set(), set()),
    ],
)
def test_one_home_for_what_is_called(word: str, homes: set[str], pending: set[str]) -> None:
    assert looked_up().get(word, set()) <= homes | pending


@pytest.mark.parametrize(
    ("text", "homes", "pending"),
    [
        ("0001-01-01T00:00:00Z", {"spec.times"}, set()),
        ("strconv.ParseBool: parsing ", {"spec.go_values"}, set()),
        ("TRUE", {"spec.go_values"}, set()),  # of ParseBool's spellings this one stands for nothing else
        ("time: invalid duration ", {"spec.go_values"}, {"engine.builder.solver.cache"}),
        ('": extraneous or missing " in quoted-field', {"spec.go_values"}, set()),
    ],
)
def test_one_home_for_what_is_said(text: str, homes: set[str], pending: set[str]) -> None:
    assert set().union(*(names for found, names in said().items() if text in found)) <= homes | pending


def test_errno_is_put_into_words_in_one_place() -> None:
    """Above `linux` and the runtime, which has no OSError but a number at hand, `errors.words` reads `strerror`."""
    readers = {name for name in looked_up()["strerror"] if not name.startswith(("linux.", "runtime.", "supervisor."))}
    assert readers - {"errors"} <= {
        "daemon.tls",  # asks whether there is one
        "api.errors",  # asks whether there is one
        "cli.builder.place",  # raises the error again, about another path
        "engine.layers.unpack",  # raises the error again, about another path
        "registry.transport",  # aiohttp's errors, whose text may hold several
    }


def test_no_more_types_are_ignored() -> None:
    assert sum(path.read_text().count("# type: ignore") for path in ROOT.rglob("*.py")) <= TYPE_IGNORES


def test_lists_name_what_there_is() -> None:
    """What has a reason of its own is still there: who renames it renames it here."""
    assert TASK_OWNERS.keys() <= modules().keys()
    assert SHARED_NAMES.keys() <= {node.name for _, node in nodes(ast.ClassDef)}
