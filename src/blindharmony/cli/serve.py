"""``blindharmony serve``: a page on this computer for people without a terminal."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path
from typing import Any

from blindharmony.cli.console import Screen
from blindharmony.cli.options import both
from blindharmony.errors import UsageError

_EPILOG = """\
Open the printed link in a browser on this computer: drop scans on the page, watch, compare, download. Scans and results
stay in --folder. Closing the browser or stopping the page (Ctrl-C) loses nothing: whatever was running begins again at
the next start. Nothing is loaded from elsewhere and nothing is sent.

examples:
  blindharmony serve --open
  blindharmony serve --target mysite.safetensors --folder /data/harmonization --n-procs 2
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "serve",
        help="a page on this computer to harmonize scans without a terminal",
        description="Serve a page on this computer where scans are dropped, harmonized, compared and downloaded.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--folder", type=Path, metavar="DIR", help="where scans and results are kept (default: in your home)"
    )
    p.add_argument("--target", nargs="+", default=[], metavar="FILE", help="model files to offer beside the included")
    p.add_argument("--port", type=int, metavar="N", help="port (default: the first free one from 8642 on)")
    p.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; other than %(default)s lets other computers in"
    )
    p.add_argument(*both("--n-procs"), type=int, default=1, metavar="N", help="scans at a time, about 2 GB each")
    p.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    p.add_argument(
        *both("--max-upload-mb"), type=int, default=500, metavar="MB", help="largest scan (default: %(default)s)"
    )
    p.add_argument(
        *both("--max-scans"), type=int, default=100, metavar="N", help="most scans at once (default: %(default)s)"
    )
    p.add_argument("--open", action="store_true", help="open the page in the browser")
    p.add_argument("-q", "--quiet", action="store_true", help="print only the link and problems")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Serve until Ctrl-C."""
    from blindharmony.serve.run import Options, data_folder, serve

    for option in ("n_procs", "max_upload_mb", "max_scans"):
        if getattr(arguments, option) < 1:
            raise UsageError(f"--{option.replace('_', '-')} is less than 1", remedy="use 1 or more")
    if arguments.port is not None and not 0 <= arguments.port <= 65535:
        raise UsageError(f"there is no port {arguments.port}", remedy="use one from 1024 to 65535")
    options = Options(
        folder=arguments.folder or data_folder(),
        host=arguments.host,
        port=arguments.port,
        targets=arguments.target,
        processes=arguments.n_procs,
        device=arguments.device,
        most_bytes=arguments.max_upload_mb * 2**20,
        most_scans=arguments.max_scans,
    )

    def started(link: str) -> None:
        screen.result(link)
        screen.note(f"open this link in a browser on this computer; scans and results are kept in {options.folder}")
        screen.note("stop with Ctrl-C: nothing is lost")
        if arguments.open:
            webbrowser.open(link)

    stopped = serve(options, started, lambda text: screen.problem(f"blindharmony: warning: {text}"))
    screen.note(f"stopped; {stopped} running jobs are back in the queue" if stopped else "stopped")
    return 0
