"""No `async` function of the daemon looks at a path itself, unless it is one of the engine's own.

Looked at are the functions that run on the loop: `async` ones, and those of the same module that they call by name.
What they hand to a thread is handed over without a call.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.unit.test_structure import modules

# What looks at nothing: words about paths, descriptors that are open already, the process itself.
HARMLESS = {
    *("join", "split", "splitext", "basename", "dirname", "normpath", "abspath", "isabs", "relpath", "commonpath"),
    *("fsencode", "fsdecode", "close", "dup", "fstat", "fchmod", "fchown", "set_inheritable", "set_blocking", "pipe2"),
    *("getpid", "getuid", "geteuid", "kill", "umask", "uname", "urandom", "getrandom", "cpu_count", "sysconf"),
    *("strerror", "major", "minor", "makedev", "memfd_create", "write", "hex"),
}

OWN = {
    "containers.archive": "the container's directory",
    "containers.create": "the container's directory",
    "containers.launch": "the container's directory; programs that daemon.json names",
    "containers.recovery": "the container's directories",
    "containers.remove": "the container's directory",
    "containers.stats": "/proc",
    "disk.service": "the data root's directories, by their names",
    "engine": "the data root",
    "images.loading": "the spooled archive",
    "layers.layers": "/proc",
    "networks.carrier": "files in the exec root",
    "networks.changes": "/proc",
    "networks.fabric": "/proc",
    "networks.names": "files in the exec root",
    "networks.sandboxes": "links in the exec root",
    "system": "/sys",
    "tasks.seccomp": "a file in the exec root",
    "volumes.drivers.local": "the volumes' own directories, by their names; an unmount looks at nothing",
    "volumes.service": "a volume without options is a directory of ours",
}
"""Modules of the engine whose functions on the loop look at paths of the engine's own, and at which."""

OWN_OUTSIDE = {
    "daemon.metrics": "/proc",
    "registry.transport": "the daemon's certificates and resolv.conf",
}


def own(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function that are not those of a function inside it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield child
            yield from own(child)


def looks(call: ast.Call) -> bool:
    name = call.func
    if isinstance(name, ast.Name):
        return name.id == "open"
    text = ast.unparse(name)
    return text.startswith(("os.", "shutil.", "saferoot.", "procfs.")) and text.rpartition(".")[2] not in HARMLESS


def on_the_loop(tree: ast.Module) -> Iterator[ast.AST]:
    """Functions of a module that run on the loop."""
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    waiting: list[ast.AST] = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    seen: set[ast.AST] = set()
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        yield function
        for node in own(function):
            if isinstance(node, ast.Call):
                called = node.func
                if (
                    isinstance(called, ast.Attribute)
                    and isinstance(called.value, ast.Name)
                    and called.value.id == "self"
                ):
                    name = called.attr
                elif isinstance(called, ast.Name):
                    name = called.id
                else:
                    continue
                if name in functions:
                    waiting.append(functions[name])


def looking(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.Call) and looks(node) for function in on_the_loop(tree) for node in own(function))


def test_only_own_paths_are_looked_at_on_the_loop() -> None:
    """The builder has a list of its own kind: what it works on lies in its scratch directory."""
    found = {
        name
        for name, tree in modules().items()
        if name.startswith(("engine", "api.", "daemon.", "registry.")) and not name.startswith("engine.builder.")
        if looking(tree)
    }
    allowed = {f"engine.{name}" for name in OWN} | OWN_OUTSIDE.keys()
    assert found == allowed


def test_a_look_is_seen() -> None:
    seen = ast.parse("async def f(self):\n  self.g()\ndef g(self):\n  os.stat(path)")
    handed = ast.parse(
        "async def f(self):\n  await looks.run(path, g)\n  await looks.run(path, lambda: os.stat(p))\n"
        "def g():\n  os.stat(path)"
    )
    assert looking(seen) and not looking(handed)
