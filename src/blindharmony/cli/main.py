"""``blindharmony``: parse, run one verb, turn every outcome into an exit code."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn

from blindharmony.cli import (
    assess,
    bids,
    completion,
    demo,
    export,
    harmonize,
    info,
    methods,
    rerun,
    sample,
    serve,
    train,
    verify,
    view,
    watch,
)
from blindharmony.cli.console import Screen
from blindharmony.errors import BlindHarmonyError, UsageError, one_line, reportable
from blindharmony.files import IMAGE_EXTENSIONS
from blindharmony.jobs.processes import THREADS, keep_memory, threads_asked
from blindharmony.version import VERSION

_INTERRUPTED = 130
# Verbs of the benchmark, a distribution of its own.
_BENCHMARK = {"benchmark", "simulate"}

_EPILOG = """\
examples:
  blindharmony demo                                   harmonize the included scan and look at the report
  blindharmony harmonize scan.nii.gz --out out        one scan to the included target
  blindharmony harmonize study/ --out out             every T1w scan of a folder or BIDS study
  blindharmony bids study out participant             a whole BIDS data set, in parallel, resumable
  blindharmony view out/scan_desc-harmonized.nii.gz   look through a result and its scan
  blindharmony serve --open                           a page in the browser: drop scans, compare, download
  blindharmony assess study/                          how far is every scan from the target scanner?
  blindharmony train study/ --out mysite.safetensors  learn your own scanner from 20 of its scans

completion in the shell: blindharmony completion --help

exit codes: 0 done, 1 scans failed or are damaged, 2 wrong use, 66 no scan found, 70 internal error, 130 interrupted
"""


class WrongUseError(Exception):
    """A command line that the grammar does not know.

    Attributes:
        usage: What would be right.
    """

    def __init__(self, what: str, usage: str) -> None:
        super().__init__(what)
        self.usage = usage


class Verb(argparse.ArgumentParser):
    """A grammar, which answers an unknown verb or option with the one that was meant, and with its own usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and end the program if something is left over."""
        arguments, unknown = super().parse_known_args(args, namespace)
        words = [word for word in unknown if not word.startswith("-")]
        many = next((a for a in self._actions if not a.option_strings and a.nargs in ("+", "*")), None)
        if many and words:  # inputs may stand on both sides of an option
            setattr(arguments, many.dest, [*getattr(arguments, many.dest), *self._get_values(many, words)])
            unknown = [word for word in unknown if word not in words]
        if unknown:
            word = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(word, self._option_string_actions, n=1)
            more = f"; did you mean {near[0]}?" if near else f"; see {self.prog} --help"
            self.error(f"unknown: {unknown[0]}{more}")
        return arguments, unknown

    def error(self, message: str) -> NoReturn:
        """End with one line that says what is wrong; the usage comes behind it."""
        raise WrongUseError(one_line(f"{self.prog}: {message}"), self.format_usage())

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            raise argparse.ArgumentError(None, _unknown_verb(str(value), list(action.choices)))
        super()._check_value(action, value)


def _unknown_verb(word: str, verbs: Sequence[str]) -> str:
    """What to say to a word that is no verb.

    Example:
        >>> _unknown_verb("harmonise", ["harmonize", "assess"])
        "there is no verb 'harmonise'; did you mean harmonize?"
        >>> _unknown_verb("scan.nii.gz", ["harmonize"])
        "there is no verb 'scan.nii.gz'; did you mean: blindharmony harmonize scan.nii.gz --out out"
    """
    what = f"there is no verb '{word}'"
    if word.lower().endswith(IMAGE_EXTENSIONS) or os.sep in word or Path(word).is_dir():
        return f"{what}; did you mean: blindharmony harmonize {word} --out out"
    near = difflib.get_close_matches(word, verbs, n=1)
    return f"{what}; did you mean {near[0]}?" if near else f"{what}; choose one of {', '.join(verbs)}"


def parser() -> argparse.ArgumentParser:
    """The command line's grammar, all verbs."""
    top = Verb(
        prog="blindharmony",
        description="Make a scan of any MR scanner look like the target scanner's, learned from target scans only.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"blindharmony {VERSION}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an internal error")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Verb)
    for command in (
        harmonize,
        bids,
        view,
        serve,
        assess,
        train,
        sample,
        info,
        export,
        rerun,
        verify,
        watch,
        methods,
        demo,
        completion,
    ):
        command.add_parser(verbs)
    installed = {extension.name: extension for extension in entry_points(group="blindharmony.commands")}
    for extension in installed.values():
        extension.load().add_parser(verbs)
    for name in _BENCHMARK - set(installed):
        verbs.add_parser(name, add_help=False, allow_abbrev=False).set_defaults(run=_not_installed)
    return top


def _not_installed(arguments: argparse.Namespace, screen: Screen) -> int:
    raise UsageError(
        f"'{arguments.verb}' is not installed here", remedy="run pip install ./benchmarks in a copy of the source"
    )


@contextmanager
def _asked_to_end(*, for_good: bool) -> Iterator[None]:
    """Within it SIGTERM, which batch systems and container engines send, ends the work as Ctrl-C does.

    Args:
        for_good: Whether the process ends after it: however it ends, no signal then takes its last line and exit code.
    """

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough: what follows is putting away
        raise KeyboardInterrupt

    # Only the main thread hears signals; what somebody else has arranged stays.
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if for_good else signal.SIG_DFL)
        if for_good:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Words after the program's name; those of the process if None.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    keep_memory()
    if threads := threads_asked():
        # ITK has a variable of its own, and else takes every core.
        os.environ.setdefault(THREADS[-1], str(threads))
    if not words:
        parser().print_help()
        return UsageError.exit_code
    try:
        arguments = parser().parse_args(words)
    except WrongUseError as error:
        print(f"{error}\n{error.usage}", file=sys.stderr, end="")
        if "--json" in words:
            _tell_machine(UsageError(str(error)))
        raise SystemExit(UsageError.exit_code) from None
    screen = Screen(quiet=getattr(arguments, "quiet", False), verbose=getattr(arguments, "verbose", False))
    try:
        with _asked_to_end(for_good=argv is None):
            return int(arguments.run(arguments, screen))
    except BlindHarmonyError as error:
        problem = error
    except KeyboardInterrupt:
        screen.problem("blindharmony: interrupted; what was finished is kept")
        if getattr(arguments, "json", False):
            print(json.dumps({"status": "interrupted", "exit_code": _INTERRUPTED}))
        return _INTERRUPTED
    except Exception as error:
        if arguments.debug:
            raise
        problem = reportable(error)
    screen.problem(f"blindharmony: {problem}")
    if getattr(arguments, "json", False):
        _tell_machine(problem)
    return problem.exit_code


def _tell_machine(error: BlindHarmonyError) -> None:
    """A run that ends with an error ends with an object too, where JSON was asked for."""
    path = None if error.path is None else str(error.path)
    content = {"status": "failed", "path": path, "what": error.what, "remedy": error.remedy, "code": error.code}
    print(json.dumps({**content, "exit_code": error.exit_code}))


if __name__ == "__main__":
    sys.exit(main())
