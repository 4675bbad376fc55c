"""The page from start to end: a folder, a lock, a port, a server."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from blindharmony.errors import InputError, OutputError, UsageError
from blindharmony.files import read_text, write_text
from blindharmony.serve.security import is_loopback, listening
from blindharmony.serve.worker import PageJob

_NEEDED = ("fastapi", "uvicorn")
_TOKEN = "server/token"


@dataclass(frozen=True)
class Options:
    """How the page is to be served.

    Attributes:
        folder: Where jobs are kept.
        host: The address to listen at.
        port: The port; a free one if None.
        targets: Model files, offered before the included ones.
        processes: Jobs at a time.
        device: Where workers compute.
        most_bytes: Of one scan.
        most_scans: Of one job, and half of what may wait outside jobs.
        work: What a worker does; a test takes another type.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int | None = None
    targets: Sequence[str] = field(default_factory=tuple)
    processes: int = 1
    device: str = "cpu"
    most_bytes: int = 500 * 2**20
    most_scans: int = 100
    work: type[PageJob] = PageJob


def check_installed() -> None:
    """Say what to install if the page's server is not there.

    Raises:
        UsageError: With the command, or if this system has no locks for files.
    """
    if find_spec("fcntl") is None:
        raise UsageError("the page works on Linux and macOS", remedy="on Windows start it in WSL")
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise UsageError(
            f"the page needs {' and '.join(missing)}", remedy="install them with: pip install 'blindharmony[ui]'"
        )


def data_folder() -> Path:
    """Where this user's jobs are kept if nobody says otherwise.

    Example:
        >>> data_folder().name
        'blindharmony-jobs'
    """
    home = Path.home()
    if platform.system() == "Darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "blindharmony-jobs"


def _check_own(folder: Path) -> None:
    """Refuse a folder with files of others: what waits for the page is removed at every start."""
    try:
        strange = folder.exists() and any(folder.iterdir()) and not (folder / "server" / "lock").exists()
    except OSError as error:
        raise OutputError(f"cannot be used ({error.strerror})", remedy="choose another --folder", path=folder) from None
    if strange:
        raise OutputError("holds files that are not the page's", remedy="choose a new or empty --folder", path=folder)


def serve(options: Options, started: Callable[[str], None], warn: Callable[[str], None]) -> int:
    """Serve the page until it is stopped.

    Args:
        options: How.
        started: Called with the link as soon as it works.
        warn: Called with what has to be known.

    Returns:
        How many jobs were running and are back in the queue.

    Raises:
        UsageError: If a package, the address or the port is not there.
        OutputError: If the folder cannot be used, holds something else, or another server uses it.
        TargetError: If a model file is none.
    """
    check_installed()
    import uvicorn

    from blindharmony.locks import locked
    from blindharmony.serve.app import Desk, Page, PatientProtocol, choices, make_app
    from blindharmony.serve.queue import Queue
    from blindharmony.serve.security import Door
    from blindharmony.serve.store import Store, Uploads

    targets, folder = choices(options.targets), options.folder.resolve()
    _check_own(folder)
    with locked(folder / "server" / "lock"):
        with suppress(OSError):
            folder.chmod(0o700)
        uploads = Uploads(folder / "incoming", most_bytes=options.most_bytes, most=2 * options.most_scans)
        store = Store(folder, uploads)
        for place in store.odd:
            warn(f"{place}: holds no job that can be read; it is left alone")
        queue = Queue(store, processes=options.processes, device=options.device, work=options.work)
        shared = not is_loopback(options.host)
        with listening(options.host, options.port) as socket:
            port = int(socket.getsockname()[1])
            door = Door(options.host, port, _token(folder))
            page = Page(targets, str(folder), options.most_bytes, options.most_scans, shared)
            if shared:
                warn(
                    "other computers can reach this page: whoever has the link sees all scans, and nothing is encrypted"
                )
            app = make_app(Desk(store, queue, page, door))
            config = uvicorn.Config(
                app,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                http=PatientProtocol,
                timeout_graceful_shutdown=3,
                limit_concurrency=100,
            )
            # Ctrl-C or a request to end comes again when all is put away; by then it has been answered.
            with suppress(KeyboardInterrupt):
                started(f"http://{_name(options.host)}:{port}/?token={door.token}")
                uvicorn.Server(config).run(sockets=[socket])
            return int(getattr(app.state, "stopped", 0))


def _name(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return platform.node() or "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _token(folder: Path) -> str:
    """The link's secret, kept so that a page that is open outlives a restart."""
    file = folder / _TOKEN
    try:
        token = read_text(file).strip()
        if len(token) == 32 and token.isalnum():
            return token
    except InputError:
        pass
    token = secrets.token_hex(16)
    write_text(file, token + "\n", overwrite=True)
    try:
        file.chmod(0o600)
    except OSError as error:
        raise OutputError("cannot be made private", remedy="choose another --folder", path=file) from error
    return token
