"""``blindharmony``: parse, run one verb, turn every outcome into an exit code."""

from __future__ import annotations

import argparse
import difflib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

from blindharmony.cli import assess, bids, demo, export, harmonize, info, rerun, sample, serve, train, verify, view
from blindharmony.cli.console import Screen
from blindharmony.errors import BlindHarmonyError, UsageError, reportable
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

exit codes: 0 done, 1 scans failed or are damaged, 2 wrong use, 66 no scan found, 70 internal error, 130 interrupted
"""


class Verb(argparse.ArgumentParser):
    """One verb's grammar, which answers an unknown option with its own usage and the option that was meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and end the program if something is left over."""
        arguments, unknown = super().parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(word, self._option_string_actions, n=1)
            more = f"; did you mean {near[0]}?" if near else f"; see {self.prog} --help"
            self.error(f"unknown: {unknown[0]}{more}")
        return arguments, unknown


def parser() -> argparse.ArgumentParser:
    """The command line's grammar, all verbs."""
    top = argparse.ArgumentParser(
        prog="blindharmony",
        description="Make a scan of any MR scanner look like the target scanner's, learnt from target scans only.",
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
        demo,
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
def _asked_to_end() -> Iterator[None]:
    """Within it SIGTERM, which batch systems and container engines send, ends the work as Ctrl-C does."""

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
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Words after the program's name; those of the process if None.

    Returns:
        The exit code.
    """
    arguments = parser().parse_args(argv)
    screen = Screen(quiet=getattr(arguments, "quiet", False))
    try:
        with _asked_to_end():
            return int(arguments.run(arguments, screen))
    except BlindHarmonyError as error:
        screen.problem(f"blindharmony: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        screen.problem("blindharmony: interrupted; what was finished is kept")
        return _INTERRUPTED
    except Exception as error:
        if arguments.debug:
            raise
        problem = reportable(error)
        screen.problem(f"blindharmony: {problem}")
        return problem.exit_code


if __name__ == "__main__":
    sys.exit(main())
