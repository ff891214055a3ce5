"""What the documentation names exists: files, tests, links, commands, and the words of the glossary."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ROOT / "src/sampan"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

TOP = {"src", "tests", "docs", "bench", "examples", "packaging", "tools"}
ROOMS = {path.name for path in SOURCES.iterdir() if path.is_dir()}
FILES = [path.relative_to(ROOT) for top in TOP for path in (ROOT / top).rglob("*.py")]


def code(text: str) -> list[str]:
    """What stands in backticks, and in code blocks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [*re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", rest), *blocks]


def is_missing(name: str) -> bool:
    """Whether a name in backticks says by its form that it is a file or directory of the tree, and is none.

    A path from the checkout's top or from `src/sampan`, or the end of the path of a Python file: `solver/keys.py`.
    """
    if not re.fullmatch(r"[\w.{},/-]+", name) or ("/" not in name and not name.endswith(".py")):
        return False
    if "{" in name:
        return any(is_missing(one) for one in expanded(name))
    first = name.split("/")[0]
    if first in TOP:
        return not (ROOT / name).exists()
    if (SOURCES / name).exists():
        return False
    if name.endswith(".py"):
        parts = Path(name).parts
        return not any(path.parts[-len(parts) :] == parts for path in FILES)
    return first in ROOMS


def expanded(name: str) -> list[str]:
    """The names that braces stand for, as in a shell: `drivers/{local,plugin}.py`."""
    before, _, rest = name.partition("{")
    inside, _, after = rest.partition("}")
    return [before + one + after for one in inside.split(",")]


def defined_tests() -> set[str]:
    return {name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}


@each_page
def test_every_test_named_exists(page: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", page.read_text()))
    assert len(named) > 40 or page.name != "security.md"
    assert named <= defined_tests(), named - defined_tests()


def test_every_attack_names_a_test_that_is_run() -> None:
    """Each row of security.md: what was attacked, how, and at least one test that pytest collects."""
    page = (ROOT / "docs/security.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+) \|$", page, re.MULTILINE)[1:]
    assert len(rows) > 40
    collected = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        if path.name.startswith("test_") or path.name == "on_v2.py"
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    for seen, _, tests in rows:
        named = re.findall(r"`(test_\w+)`", tests)
        assert named and set(named) <= collected, seen
    of_cves = {name for name in collected if "cve_" in name}
    assert not {name for name in of_cves if f"`{name}`" not in page}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@each_page
def test_every_path_named_exists(page: Path) -> None:
    names = {name for name in code(page.read_text()) if "\n" not in name}
    assert not {name for name in names if is_missing(name)}


@each_page
def test_every_class_is_in_the_file_named_with_it(page: Path) -> None:
    for name, path in re.findall(r"`([A-Z]\w+)` in `(src/[\w./]+\.py)`", page.read_text()):
        assert re.search(rf"^class {name}\b", (ROOT / path).read_text(), re.MULTILINE), (name, path)


@each_page
def test_every_command_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for text in code(page.read_text()):
        assert set(re.findall(r"(?:^|\s)make ([a-z]+)\b", text)) <= targets, text
        for module in re.findall(r"\bpython -m ([\w.]+)", text):
            assert importlib.util.find_spec(module) is not None, module


def test_the_floors_of_the_engine_are_those_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["name"] == "inside the engine"]
    rooms = [room.strip().removeprefix("sampan.engine.") for layer in layers for room in layer.split("|")]
    rows = re.findall(r"^\| [1-6] \| (.+?) \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    assert [name.removesuffix(".py") for row in rows for name in re.findall(r"`(.+?)`", row)] == rooms


def words() -> list[tuple[str, str, str]]:
    """(word, meaning, file) of the glossary."""
    rows = re.findall(
        r"^\| \*\*(.+?)\*\* \| (.+) \| `(.+?)` \|$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE
    )
    return [(word, meaning.strip(), path) for word, meaning, path in rows]


def test_the_glossary_names_files_that_exist() -> None:
    found = words()
    assert len(found) > 60
    assert not [path for _, _, path in found if not (SOURCES / path).is_file() and not (ROOT / path).is_file()]


def test_the_glossary_explains_each_word_once_in_few_sentences() -> None:
    found = words()
    names = [word for word, _, _ in found]
    assert len(set(names)) == len(names)
    for word, meaning, _ in found:
        assert meaning.endswith((".", ")")), word
        assert len(re.findall(r"[.:] (?=[A-Z(])", meaning)) <= 3, word


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_the_glossary_is_found(page: str) -> None:
    assert "(docs/glossary.md)" in (ROOT / page).read_text()


def test_the_checks_see_what_is_missing() -> None:
    assert not is_missing("src/sampan/errors.py")
    assert not is_missing("engine/store.py")
    assert not is_missing("solver/keys.py")
    assert not is_missing("errors.py")
    assert not is_missing("tests/{unit,kernel}")
    assert not is_missing("data-root/content/")
    assert not is_missing("/proc/self/fd/{3,4}")
    assert is_missing("src/sampan/error.py")
    assert is_missing("engine/stores/")
    assert is_missing("files/keys.py")
    assert is_missing("tests/{unit,core}")
