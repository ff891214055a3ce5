"""Record what an engine answers to `network_steps.py`: `python -m tests.api.record_networks SOCKET [FILE]`.

The answers in the repository are those of Docker Engine 28.5.2, alone in a network namespace, with busybox:latest.
"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

from tests.api.network_steps import STORIES
from tests.support.engine import UnixConnection

ANSWERS = Path(__file__).with_name("network_answers.json")
JSON = dict[str, Any]
_NAMED = re.compile(r"<([^<>: ]+)(?::(\d+))?>")
_RANDOM = ("Created", "Started", "Finished", "StartedAt", "FinishedAt")


class Story:
    """One story on one engine: the ids of what it made, by name."""

    def __init__(self, socket: str) -> None:
        self.socket, self.began = socket, time.time()
        self.ids: dict[str, str] = {}
        self.given: set[str] = set()  # MAC addresses that requests name

    def ask(self, method: str, path: str, body: str, version: str) -> tuple[int, str]:
        connection = UnixConnection(self.socket)
        try:
            quoted = urllib.parse.quote(path, safe="/?=&%:,")
            headers = {"Content-Type": "application/json"} if body else {}
            connection.request(method, f"/v{version}{quoted}", body=body or None, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def play(self, line: str) -> JSON | None:
        """Do what a line says; return what was answered, None for what is only tidying up."""
        if line.startswith("REMOVE "):
            for name in line.split(" ")[1:]:
                for kind in ("containers", "networks"):
                    self.ask("DELETE", f"/{kind}/{self.ids.get(name, name)}?force=1", "", "1.51")
            return None
        if line == "EVENTS":
            return {"line": line, "body": self.events()}
        asked = line.removeprefix("! ")
        version, asked = asked[1:].split(" ", 1) if asked[0] == "@" else ("1.51", asked)
        asked = _NAMED.sub(lambda m: self.ids.get(m[1], m[0])[: int(m[2]) if m[2] else None], asked)
        method, _, rest = asked.partition(" ")
        path, _, body = rest.partition(" ")
        if body and body[0] != "{":  # a path with blanks
            path, body = rest, ""
        status, text = self.ask(method, path, body, version)
        if status == 201:
            named = re.search(r"name=([^&]*)", path)
            self.ids[named[1] if named else json.loads(body)["Name"]] = json.loads(text)["Id"]
        self.given |= set(re.findall(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", line))
        try:
            shown = json.loads(text)
        except ValueError:
            shown = text
        return {"line": line, "status": status, "body": self.normal(self.part(shown))}

    def events(self) -> Any:
        until = time.time()
        filters = '{"type":["network"]}'
        _, text = self.ask("GET", f"/events?since={self.began:.6f}&until={until:.6f}&filters={filters}", "", "1.51")
        events = [json.loads(line) for line in text.splitlines()]
        shown = [f"{e['Action']} {sorted(e['Actor']['Attributes'].items())}" for e in events]
        return [self.normal(line) for line in shown]

    def part(self, shown: Any) -> Any:
        """Of a container only its networks count."""
        if isinstance(shown, dict) and "NetworkSettings" in shown:
            config, host = shown["Config"], shown["HostConfig"]
            return {
                "Networks": shown["NetworkSettings"]["Networks"],
                "Mode": host["NetworkMode"],
                "Mac": config.get("MacAddress"),
                "Settings": sorted(shown["NetworkSettings"]),
            }
        if isinstance(shown, list):  # in no order
            return sorted(shown, key=lambda network: str(network["Name"]))
        return shown

    def normal(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.normal(k): "<time>" if k in _RANDOM else self.normal(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.normal(item) for item in value]
        if not isinstance(value, str):
            return value
        if value in ("docker0", "sampan0"):
            return "<default bridge>"
        for name, id in self.ids.items():
            value = value.replace(id, f"<{name}>").replace(id[:12], f"<{name}:12>")
        users = re.findall(r'name:"[^"]*" id:"[^"]*"', value)
        value = value.replace(", ".join(users), ", ".join(sorted(users)))  # in no order
        value = re.sub(r"^fd[0-9a-f]{2}(:[0-9a-f]{1,4}){2}::", "<ula>::", value)
        value = re.sub(r"[0-9a-f]{64}", "<id>", value)
        value = re.sub(r"\b[0-9a-f]{12}\b", "<id:12>", value)
        return re.sub(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", lambda m: m[0] if m[0] in self.given else "<mac>", value)


def play(socket: str, name: str) -> list[JSON]:
    """Play a story; return the answers of its lines, and leave nothing of it."""
    story = Story(socket)
    try:
        return [answer for line in STORIES[name] if (answer := story.play(line)) is not None]
    finally:
        story.play(" ".join(["REMOVE", *reversed(story.ids.values())]))


def main() -> None:
    stories = {name: play(sys.argv[1], name) for name in STORIES}
    lines = ",\n".join(
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(a, ensure_ascii=False) for a in answers) + "\n]"
        for name, answers in stories.items()
    )
    Path(sys.argv[2] if len(sys.argv) > 2 else ANSWERS).write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
