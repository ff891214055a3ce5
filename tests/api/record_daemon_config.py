"""Record what dockerd says of configurations: `python -m tests.api.record_daemon_config DOCKERD`.

daemon_configs.json has them, right and wrong: [flags, daemon.json (text)]; daemon_config_answers.json gets [flags,
daemon.json, exit code, text] of each, as `dockerd --validate` of 28.5.2 answers. Nothing is started.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIGS = Path(__file__).with_name("daemon_configs.json")
ANSWERS = Path(__file__).with_name("daemon_config_answers.json")
_LOG = re.compile(r'^time="[^"]*" level=\w+ msg=')


def normal(text: str, path: str) -> str:
    """Return the words alone: no path, no log head, and of a wrong flag no usage."""
    text = text.replace(path, "FILE").replace("dockerd", "sampand").replace("the Docker daemon", "the daemon")
    first = text.strip().partition("\n")[0]
    return _LOG.sub("", first.removeprefix("Status: "))


def main() -> None:
    answers = []
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/daemon.json"
        for flags, document in json.loads(CONFIGS.read_text()):
            Path(path).write_text(document)
            done = subprocess.run(
                [sys.argv[1], "--validate", "--config-file", path, *flags.split()],
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            answers.append([flags, document, done.returncode, normal(done.stdout + done.stderr, path)])
    ANSWERS.write_text("[\n" + ",\n".join(json.dumps(a, ensure_ascii=False) for a in answers) + "\n]\n")


if __name__ == "__main__":
    main()
