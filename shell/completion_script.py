"""The command `completion`: a script that makes bash, zsh or fish complete commands, options and files.

Commands are those of `datalog.cli`; the options of each, their values and the commands inside a command are read from its
help, so that the script never names one that there is not.
"""

from __future__ import annotations

import contextlib
import io
import re
from importlib import import_module
from typing import Final, NamedTuple

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


class Words(NamedTuple):
    """What can be written after a command."""

    command: tuple[str, ...]  # `q`, or `migrate`, `apply`
    options: list[str]
    choices: dict[str, list[str]]  # of an option; of "" what may be written without one
    commands: dict[str, str]  # the next word and what it does, for a command of commands


def words_of(*command: str) -> Words:
    """What the help of a command names."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        import_module(COMMANDS[command[0]][0]).run(command[0], [*command[1:], "--help"])
    text = re.split(r"^examples?:", out.getvalue(), flags=re.MULTILINE)[0]
    described = text.partition("\n\n")[2]  # the usage breaks its lines where it likes
    choices = {option: values.split(",") for option, values in re.findall(r"(--[a-z-]+) \{(.*?)\}", described)}
    free = re.search(r"^  \{(.*)\}", described, re.MULTILINE)
    if free is not None:
        choices[""] = free[1].split(",")
    listed = described.partition("commands:\n")[2].partition("\n\n")[0]
    commands = dict(re.findall(r"^  (\w+) +(.*)", listed, re.MULTILINE))
    headings = [line.strip().partition("  ")[0] for line in described.splitlines() if line.startswith("  -")]
    options = sorted({option for heading in headings for option in re.findall(r"--[a-z][a-z-]*", heading)})
    return Words(command, options, choices, commands)


def all_words() -> list[Words]:
    """Of all commands, and of the commands of commands."""
    found = []
    for name in COMMANDS:
        words = words_of(name)
        found += [words, *(words_of(name, inner) for inner in words.commands)]
    return found


def script(shell: str) -> str:
    """The completion script for a shell."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](all_words())


def _cases(found: list[Words], previous: str) -> str:
    """The branches of a `case` over the command's words: they set `options`, `values`, and `files` to empty where none fit."""
    lines = []
    for words in found:
        free = [*words.commands, *words.choices.get("", [])]
        inner = [
            f"{option}) values=({' '.join(values)}); files= ;;" for option, values in words.choices.items() if option
        ]
        lines += [
            f"    {_quoted(' '.join(words.command))})",
            f"      options=({' '.join(words.options)}); values=({' '.join(free)})",
        ]
        if words.commands:
            lines.append("      files=")
        if inner:
            lines += [f'      case "{previous}" in', *(f"        {line}" for line in inner), "      esac"]
        lines.append("      ;;")
    return "\n".join(lines)


def _groups(found: list[Words]) -> str:
    return "|".join(words.command[0] for words in found if words.commands)


def _bash(found: list[Words]) -> str:
    return f"""# bash completion for datalog
_datalog() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}"
  local command="${{COMP_WORDS[1]}}" files=1 options=() values=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(COMMANDS)} --help --version" -- "$current"))
    return
  fi
  case "$command" in
    {_groups(found)}) [ "$COMP_CWORD" -gt 2 ] && command="$command ${{COMP_WORDS[2]}}" ;;
  esac
  case "$command" in
{_cases(found, "$previous")}
  esac
  COMPREPLY=()
  if [[ "$current" == -* ]]; then
    COMPREPLY=($(compgen -W "${{options[*]}}" -- "$current"))
    return
  fi
  [ -n "${{values[*]}}" ] && COMPREPLY=($(compgen -W "${{values[*]}}" -- "$current"))
  local IFS=$'\\n'  # names may have spaces
  [ -n "$files" ] && COMPREPLY+=($(compgen -f -- "$current"))
}}
complete -o filenames -F _datalog datalog
"""


def _zsh(found: list[Words]) -> str:
    commands = "\n".join(f"    {_quoted(f'{name}:{text}')}" for name, (_, text) in COMMANDS.items())
    return f"""#compdef datalog
# zsh completion for datalog
_datalog() {{
  local -a commands options values
  local command="${{words[2]}}" previous="${{words[CURRENT-1]}}" files=1
  commands=(
{commands}
  )
  if (( CURRENT == 2 )); then
    _describe 'command' commands
    return
  fi
  case "$command" in
    {_groups(found)}) (( CURRENT > 3 )) && command="$command ${{words[3]}}" ;;
  esac
  case "$command" in
{_cases(found, "$previous")}
  esac
  if [[ "$PREFIX" == -* ]]; then
    compadd -- $options
    return
  fi
  (( $#values )) && compadd -- $values
  [[ -n "$files" ]] && _files
}}
_datalog "$@"
"""


def _fish(found: list[Words]) -> str:
    lines = [
        """# fish completion for datalog
function __datalog_after
    # true when the words written before this one begin with these
    set -l written (commandline -opc)
    set -l last (math (count $argv) + 1)
    test (count $written) -ge $last; and test "x$written[2..$last]" = "x$argv"
end
function __datalog_next
    # true when this one comes right after these
    set -l written (commandline -opc)
    test (count $written) -eq (math (count $argv) + 1); or return 1
    test (count $argv) -eq 0; or test "x$written[2..-1]" = "x$argv"
end"""
    ]
    for name, (_, text) in COMMANDS.items():
        lines.append(f"complete -c datalog -n __datalog_next -f -a {name} -d {_quoted(text)}")
    for words in found:
        command = " ".join(words.command)
        at = f"complete -c datalog -n '__datalog_{'next' if words.commands else 'after'} {command}'"
        for option in words.options:
            values = words.choices.get(option)
            lines.append(f"{at} -l {option[2:]}" + (f" -x -a {_quoted(' '.join(values))}" if values else ""))
        if "" in words.choices:
            lines.append(f"{at} -a {_quoted(' '.join(words.choices['']))}")
        for name, text in words.commands.items():
            lines.append(f"complete -c datalog -n '__datalog_next {command}' -f -a {name} -d {_quoted(text)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A word in single quotes for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"
