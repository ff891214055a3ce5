"""`sampan completion bash`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = ""
ABOUT = """Generate the completion script for bash

For this shell:

    source <(sampan completion bash)

For every new one:

    sampan completion bash > /etc/bash_completion.d/sampan"""
ARGS = (0, 0)
FLAGS = """
      --no-descriptions   No effect: bash shows no descriptions
"""
SCRIPT = r"""# bash completion for sampan
_sampan() {
    local word=${COMP_WORDS[COMP_CWORD]} line words
    # bash cuts words at ":" and "="; the program wants them whole
    words=(${COMP_LINE:0:COMP_POINT})
    [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && words+=("")
    local current=${words[${#words[@]}-1]}
    COMPREPLY=()
    while IFS= read -r line; do
        # only what follows the last cut is to be inserted
        [[ $current == *[:=]* && $word != "$current" ]] && line=${line#"${current%"${word#[:=]}"}"}
        COMPREPLY+=("$line")
    done < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then
        compopt -o default
    elif [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *: ]]; then
        compopt -o nospace
    fi
}
complete -F _sampan sampan
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    cli.out(SCRIPT)
    return 0
