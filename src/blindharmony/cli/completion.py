"""``blindharmony completion``: what the Tab key completes, written for a shell from the grammar of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from blindharmony.cli.console import Screen

_EPILOG = """\
examples, once for the shell that you use (again after an update):
  blindharmony completion bash > ~/.blindharmony.bash && echo '. ~/.blindharmony.bash' >> ~/.bashrc
  blindharmony completion zsh > ~/.blindharmony.zsh && echo '. ~/.blindharmony.zsh' >> ~/.zshrc
  blindharmony completion fish > ~/.config/fish/completions/blindharmony.fish
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "completion",
        help="print what the Tab key needs to know in bash, zsh or fish",
        description="Print the completion of verbs, options and their values, for a shell to read.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Print it."""
    from blindharmony.cli.main import parser

    screen.result({"bash": bash, "zsh": zsh, "fish": fish}[arguments.shell](parser()))
    return 0


def grammars(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Every verb and its grammar."""
    (verbs,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return dict(verbs.choices)


def options(grammar: argparse.ArgumentParser) -> Iterator[tuple[list[str], list[str], str]]:
    """Names, values and help of each option; of several ways to write one, that with dashes."""
    for action in grammar._actions:
        names = [name for name in action.option_strings if "_" not in name]
        if names:
            text = (action.help or "").partition(";")[0].partition(":")[0].partition("(")[0].replace("%%", "%")
            yield names, [str(choice) for choice in action.choices or ()], text.strip().replace("'", "")


def values(grammar: argparse.ArgumentParser) -> list[str]:
    """What stands without an option and is one of a few words."""
    return [str(c) for action in grammar._actions if not action.option_strings for c in action.choices or ()]


def bash(top: argparse.ArgumentParser) -> str:
    """For bash; files where no option and no value fits."""
    verbs = grammars(top)
    cases, choices = [], []
    for verb, grammar in verbs.items():
        words = [name for names, _, _ in options(grammar) for name in names]
        cases.append(f"    {verb}) words='{' '.join([*words, *values(grammar)])}' ;;")
        for names, few, _ in options(grammar):
            if few:
                choices += [f"    '{verb} {name}') values='{' '.join(few)}' ;;" for name in names]
    return "\n".join(
        [
            "_blindharmony() {",
            '  local current="${COMP_WORDS[COMP_CWORD]}" verb="${COMP_WORDS[1]}" words="" values=""',
            '  if [ "$COMP_CWORD" -eq 1 ]; then',
            f"    COMPREPLY=($(compgen -W '{' '.join(verbs)} --help --version' -- \"$current\")); return",
            "  fi",
            '  case "$verb ${COMP_WORDS[COMP_CWORD-1]}" in',
            *choices,
            "  esac",
            '  if [ -n "$values" ]; then COMPREPLY=($(compgen -W "$values" -- "$current")); return; fi',
            '  case "$verb" in',
            *cases,
            "  esac",
            '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o default -o bashdefault -F _blindharmony blindharmony",
        ]
    )


def zsh(top: argparse.ArgumentParser) -> str:
    """For zsh, which can read what bash reads."""
    return "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" + bash(top)


def fish(top: argparse.ArgumentParser) -> str:
    """For fish, with a few words on each option."""
    lines = []
    (verbs,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    about = {action.dest: (action.help or "").replace("'", "") for action in verbs._choices_actions}
    for verb, grammar in grammars(top).items():
        lines.append(f"complete -c blindharmony -n __fish_use_subcommand -xa {verb} -d '{about.get(verb, '')}'")
        there = f"-n '__fish_seen_subcommand_from {verb}'"
        if few := values(grammar):
            lines.append(f"complete -c blindharmony {there} -a '{' '.join(few)}'")
        for names, choices, text in options(grammar):
            how = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in names)
            what = f" -xa '{' '.join(choices)}'" if choices else ""
            lines.append(f"complete -c blindharmony {there} {how}{what} -d '{text}'")
    return "\n".join(lines)
