"""What the scripts that measure one thing are asked with."""

from __future__ import annotations

import argparse
from pathlib import Path


def measuring(description: str | None) -> argparse.ArgumentParser:
    """Options of a script that measures people of one set of a data folder and keeps a record.

    Example:
        >>> words = ["data", "--set", "oasis", "--target", "ds002748", "--heads", "heads", "--out", "record.json"]
        >>> measuring("It measures.").parse_args(words).out.name
        'record.json'
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return parser
