"""The table of docs/concepts/networks.md: the record, in few words. `python -m tests.e2e.matrix.summary` writes it.

It says what our engine does: Docker's answers, with our differences.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.e2e.matrix import differences, record
from tests.e2e.matrix.cases import GROUPS, Group

PAGE = Path(__file__).parents[3] / "docs/concepts/networks.md"
BEGIN, END = "<!-- made by tests/e2e/matrix/summary.py -->\n", "<!-- end -->\n"
KINDS = ("bridges", "direct routing", "LAN and shared", "overlay")
LEFT_OUT = (
    "host",
    "none",
    "container",
    "MTU",
    "interface name",
    "subnets of the engine",
    "direct: internal",
    "direct: no icc",
)
NONE = "–"

Answers = dict[str, str]
Word = Callable[[Answers, str, str], str]


def reached(by: str) -> Word:
    """Return what says which ports of web are reached at its own address."""

    def word(answers: Answers, proto: str, version: str) -> str:
        ports = {named: answers.get(f"{by} {proto}{version} web {named}", "") for named in ("published", "unpublished")}
        if not any(ports.values()):
            return NONE
        if ports["unpublished"].startswith("seen"):
            return "all ports"
        return "published ports" if ports["published"].startswith("seen") else "no"

    return word


def by_host(answers: Answers, proto: str, version: str) -> str:
    """Say whether the LAN reaches a published port at the host's address."""
    answer = answers.get(f"lan {proto}{version} host published", "")
    return "yes" if answer.startswith("seen") else "no" if answer else NONE


def out(to: str) -> Word:
    """Return what says whether web reaches a place, and as whom."""

    def word(answers: Answers, proto: str, version: str) -> str:
        answer = answers.get(f"web {proto}{version} {to} unpublished", "")
        if not answer.startswith("seen"):
            return "no" if answer else NONE
        return {"web": "as itself", "wan": "as the host", "host": "as the host"}.get(answer[8:], "yes")

    return word


COLUMNS: dict[str, Word] = {
    "its containers → container": reached("peer"),
    "another network's → container": reached("other"),
    "host → container": reached("host"),
    "LAN → container": reached("lan"),
    "outside → container": reached("outside"),
    "LAN → host's published port": by_host,
    "container → host": out("host"),
    "container → outside": out("outside"),
}


def cell(answers: Answers, word: Word) -> str:
    """Return one cell: what TCP and UDP say in both IP versions."""
    said = {"4": NONE, "6": NONE}
    for version in "46":
        if not any(f" tcp{version} web " in question for question in answers):
            continue  # the containers have no address of that version
        tcp, udp = (word(answers, proto, version) for proto in ("tcp", "udp"))
        said[version] = tcp if udp in (tcp, NONE) else f"TCP {tcp}, UDP {udp}"
    four, six = said["4"], said["6"]
    if four == six or six == NONE:
        return four
    return six if four == NONE else f"IPv4 {four}; IPv6 {six}"


def names(group: Group, answers: Answers) -> str:
    """Say whether web's name service asks the resolver on the LAN."""
    answer = answers.get("web dns4 names", "refused")
    if answer == "refused" or "--dns" not in group.flags:
        return NONE
    return "yes" if answer.startswith("NOERROR") else "no"


def table() -> str:
    """Return the table in Markdown."""
    recorded = record.expected()
    lines = ["| network | " + " | ".join(COLUMNS) + " | names of the outside |", "|---" * (len(COLUMNS) + 2) + "|"]
    for group in KINDS:
        for case in GROUPS[group].cases:
            if case in LEFT_OUT:
                continue
            answers = {q: differences.ours(case, q, a) for q, a in recorded[case].items()}
            cells = [cell(answers, word) for word in COLUMNS.values()]
            lines.append(f"| {case} | " + " | ".join([*cells, names(GROUPS[group], answers)]) + " |")
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
