"""Variables and quoting, against recorded answers; and what nothing may make slow or break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sampan.spec.dockerfile import stages
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.instructions import User
from sampan.spec.dockerfile.words import MAX_DEPTH, Variables, raw_words

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "words.json").read_text())


@pytest.mark.parametrize("word", RECORDED["words"], ids=lambda word: word)
def test_a_word_becomes_what_docker_makes_of_it(word: str) -> None:
    (instruction,) = stages.parse(f"FROM scratch\nUSER {word}\n").stages[0].instructions
    assert isinstance(instruction, User)
    expected = RECORDED["words"][word]
    try:
        made: Any = instruction.expanded(Variables(RECORDED["env"])).user
    except DockerfileError as e:
        made = {"error": e.message} if e.line == 2 else e
    assert made == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("80 90", ["80", "90"]),
        ("$PORTS", ["80", "90"]),
        ('"$PORTS"', ["80 90"]),
        ("a'b c'd  e\\ f", ["ab cd", "e f"]),
        ("x$PORTS", ["x80", "90"]),
        ("$NONE", []),
        ("''", []),
    ],
)
def test_variables_blanks_divide_words_unless_quoted(text: str, words: list[str]) -> None:
    assert Variables({"PORTS": "80 90"}).words(text) == words


def test_a_document_keeps_its_quotes() -> None:
    assert Variables({"A": "1"}).document("\"$A\" '$A' \\$A ${N:-x} it's\n") == "\"1\" '1' $A x it's\n"


def test_what_is_shown_keeps_quotes_and_unset_names() -> None:
    assert Variables({"A": "1"}).shown("RUN echo \"$A\" '$A' $B ${C} ${D:-x}") == "RUN echo \"1\" '$A' $B ${C} ${D:-x}"


def test_used_and_unset_names_are_noted() -> None:
    scope = Variables({"A": "1"})
    scope.word("$A ${B:-$C} '$D' ${A:+$E}")
    assert scope.used == {"A"}
    assert scope.unset == {"B", "C", "E"}


def test_another_escape_character() -> None:
    assert Variables({"A": "1"}, "`").word('C:\\$A\\x`$A `"') == 'C:\\1\\x$A "'


def test_raw_words_are_as_written_and_none_when_a_quote_is_open() -> None:
    assert raw_words("cat <<'E F' $X \\\" 3<<-B") == ["cat", "<<'E F'", "$X", '\\"', "3<<-B"]
    assert raw_words("cat <<'EOF") == []


def test_nesting_has_a_limit() -> None:
    deep = "${A:-" * (MAX_DEPTH - 1) + "x" + "}" * (MAX_DEPTH - 1)
    assert Variables({}).word(deep) == "x"
    with pytest.raises(DockerfileError, match="nested too deeply"):
        Variables({}).word("${A:-" * 100_000)
