"""`sampan completion zsh`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = ""
ABOUT = """Generate the completion script for zsh

For this shell:

    source <(sampan completion zsh)

For every new one:

    sampan completion zsh > "${fpath[1]}/_sampan\""""
ARGS = (0, 0)
FLAGS = """
      --no-descriptions   No effect: no descriptions are shown
"""
SCRIPT = r"""#compdef sampan
_sampan() {
    local -a found
    found=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=("${(@)found:#}")
    if (( ${#found} )); then
        compadd -Q -- "${found[@]}"
    else
        _files
    fi
}
if [ "$funcstack[1]" = "_sampan" ]; then
    _sampan "$@"
else
    compdef _sampan sampan
fi
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    cli.out(SCRIPT)
    return 0
