"""`sampan completion fish`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = ""
ABOUT = """Generate the completion script for fish

For this shell:

    sampan completion fish | source

For every new one:

    sampan completion fish > ~/.config/fish/completions/sampan.fish"""
ARGS = (0, 0)
FLAGS = """
      --no-descriptions   No effect: no descriptions are shown
"""
SCRIPT = r"""# fish completion for sampan
function __sampan_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    $words[1] __complete $words[2..-1] "$current" 2>/dev/null
end
complete -c sampan -a '(__sampan_complete)'
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    cli.out(SCRIPT)
    return 0
