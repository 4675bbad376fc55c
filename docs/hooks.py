"""What the site makes itself: the reference of the command line, and the places of pages that come and go."""

import argparse
import os
import sys
from pathlib import Path

from mkdocs.structure.files import File

# Help is wrapped at this width, wherever the site is built.
os.environ["COLUMNS"] = "100"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))


# Pages with a place of their own in the list, if they are there.
_HOW_TO = {
    "serve.md": "Work without a terminal",
    "evidence.md": "Compare it with other methods",
    "trained_rivals.md": "The trained methods it is compared with",
}


def on_config(config):
    """List the pages of optional parts, and tables of measurements that have no entry yet."""
    docs = Path(config["docs_dir"])
    sections = {name: pages for entry in config["nav"] for name, pages in entry.items() if isinstance(pages, list)}
    listed = str(config["nav"])
    sections["How to"] += [{title: page} for page, title in _HOW_TO.items() if (docs / page).exists()]
    for page in sorted(docs.glob("measured_*.md")):
        if page.name not in listed:
            sections["Measured"].append({page.stem.removeprefix("measured_").replace("_", " ").title(): page.name})
    return config


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
