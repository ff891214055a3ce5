"""How vertices are called: `[build 2/3] RUN make`, `[internal] load build context`. Pure.

Source: BuildKit in Docker Engine 28.5 as observed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sampan.engine.platforms import Platform
from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.words import Variables

CONTEXT = "[internal] load build context"
INLINE = "[internal] preparing inline document"
EXPORT = "exporting to image"


def definition(filename: str) -> str:
    return f"[internal] load build definition from {filename}"


def metadata(ref: str, platform: Platform | None = None) -> str:
    where = f"{platform} internal" if platform else "internal"
    return f"[{where}] load metadata for {ref}"


def in_stage(text: str, stage: str, step: tuple[int, int], platform: Platform | None) -> str:
    """Return `[linux/arm64 build 2/13] text`; platform: when several are built. A total of 0: no brackets."""
    number, total = step
    if not total:
        return text
    width = int(1 + math.log10(total))
    words = [*([str(platform)] if platform else []), *([stage] if stage else []), f"{number:>{width}}/{total}"]
    return f"[{' '.join(words)}] {text}"


def shown(instruction: i.Instruction, env: Mapping[str, str], escape: str) -> str:
    """Return an instruction with its variables filled in, as a vertex is called.

    RUN keeps quotes and what is not set.
    """
    text = instruction.source
    try:
        variables = Variables(env, escape)
        text = variables.shown(text) if isinstance(instruction, i.Run) else variables.word(text)
    except DockerfileError:
        pass  # what cannot be read as words is shown as written
    if isinstance(instruction, i.Run) and len(instruction.heredocs) == 1 and is_plain(instruction):
        text += f" ({summary(instruction.heredocs[0].content)})"
    word, blank, rest = text.partition(" ")
    return word.upper() + blank + rest


def is_plain(run: i.Run) -> bool:
    """Return whether the command is one heredoc and nothing else: then its content is the command."""
    return len(run.command.words) == 1 and run.command.shell and _only_heredoc(run.command.words[0])


def _only_heredoc(text: str) -> bool:
    word = text.strip()
    return word.lstrip("0123456789").startswith("<<") and not any(blank in word for blank in " \t\n")


def summary(document: str) -> str:
    """Return the first line of a heredoc, for its name."""
    first, more, _ = document.strip().replace("\r\n", "\n").partition("\n")
    return first + ("..." if more else "")
