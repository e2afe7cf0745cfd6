"""The command `completion`: a script that makes bash, zsh or fish complete commands, options and files.

Commands are those of `datalog.cli`; the options of each are read from its help, so that the script never names one that
there is not.
"""

from __future__ import annotations

import contextlib
import io
import re
from importlib import import_module
from typing import Final

from datalog.cli import COMMANDS
from shell.arguments import command_parser, write_out

SHELLS: Final = ("bash", "zsh", "fish")


def run(_: str, arguments: list[str]) -> int:
    """Prints the script for a shell."""
    parser = command_parser(
        "completion",
        "Prints a script that completes commands, options and files of `datalog`.",
        """completion bash > ~/.local/share/bash-completion/completions/datalog
completion zsh > ~/.zfunc/_datalog
completion fish > ~/.config/fish/completions/datalog.fish""",
    )
    parser.add_argument("shell", choices=SHELLS, help="bash, zsh or fish")
    given = parser.parse_args(arguments)
    write_out([script(given.shell)])
    return 0


def options_of(command: str) -> list[str]:
    """The long options that the help of a command names."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        import_module(COMMANDS[command][0]).run(command, ["--help"])
    text = out.getvalue().partition("examples:")[0]
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)))


def script(shell: str) -> str:
    """The completion script for a shell."""
    options = {command: options_of(command) for command in COMMANDS if command != "completion"}
    options["completion"] = ["--help"]
    if shell == "bash":
        return _bash(options)
    if shell == "zsh":
        return _zsh(options)
    return _fish(options)


def _bash(options: dict[str, list[str]]) -> str:
    cases = "\n".join(f'    {name}) options="{" ".join(words)}" ;;' for name, words in options.items())
    return f"""# bash completion for datalog
_datalog() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" options=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(COMMANDS)} --help --version" -- "$current"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  if [[ "$current" == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$current"))
  else
    COMPREPLY=($(compgen -f -- "$current"))
  fi
}}
complete -o filenames -F _datalog datalog
"""


def _zsh(options: dict[str, list[str]]) -> str:
    commands = "\n".join(f"    {_quoted(f'{name}:{text}')}" for name, (_, text) in COMMANDS.items())
    cases = "\n".join(f"    {name}) options=({' '.join(words)}) ;;" for name, words in options.items())
    return f"""#compdef datalog
# zsh completion for datalog
_datalog() {{
  local -a commands options
  commands=(
{commands}
  )
  if (( CURRENT == 2 )); then
    _describe 'command' commands
    return
  fi
  case "${{words[2]}}" in
{cases}
  esac
  if [[ "$PREFIX" == -* ]]; then
    compadd -- $options
  else
    _files
  fi
}}
_datalog "$@"
"""


def _fish(options: dict[str, list[str]]) -> str:
    lines = ["# fish completion for datalog"]
    for name, (_, text) in COMMANDS.items():
        lines.append(f"complete -c datalog -n __fish_use_subcommand -f -a {name} -d {_quoted(text)}")
    for name, words in options.items():
        lines += [f"complete -c datalog -n '__fish_seen_subcommand_from {name}' -l {word[2:]}" for word in words]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A word in single quotes for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"
