"""What the site makes itself: the reference of the command line, from the parser."""

import argparse
import os
import sys
from pathlib import Path

from mkdocs.structure.files import File

# Help is wrapped at this width, wherever the site is built.
os.environ["COLUMNS"] = "100"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))


def on_files(files, config):
    """Add ``reference/commands.md``."""
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    return files


def commands() -> str:
    """Help of every verb."""
    from blindharmony.cli.main import parser

    top = parser()
    verbs = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    parts = ["# Commands", "What `--help` says, for every verb.", _block(top)]
    for name, verb in verbs.choices.items():
        parts += [f"## {name}", _block(verb)]
    return "\n\n".join(parts) + "\n"


def _block(parser: argparse.ArgumentParser) -> str:
    return f"```text\n{parser.format_help().rstrip()}\n```"
