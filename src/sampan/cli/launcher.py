"""Install `sampan` as a thin script: the interpreter without `site`, one path, one import.

pip's own console script loads `site`, `re` and what hangs from them: 5 ms on every command. The client needs only the
standard library and this package, so the script names both and nothing else. A command that needs a package of others
calls `packages` first.

    python -m sampan.cli.launcher .venv/bin/sampan
"""

from __future__ import annotations

import os
import sys

SCRIPT = """#!{python} -IS
import sys

sys.path.append({source!r})
from sampan.cli.main import main

main()
"""


def install(path: str, python: str = sys.executable) -> None:
    """Write the script to `path`, in place of whatever is there."""
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    temporary = f"{path}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o755)
    with open(fd, "w", encoding="utf-8") as f:
        f.write(SCRIPT.format(python=os.path.abspath(python), source=source))
    os.chmod(temporary, 0o755)
    os.rename(temporary, path)


def packages() -> None:
    """Make the installed packages importable, which the script has left out."""
    if sys.flags.no_site:
        import site  # 3 ms

        site.main()


if __name__ == "__main__":
    for target in sys.argv[1:]:
        install(target)
