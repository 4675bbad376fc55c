"""A zip file that is made while it is sent: no copy on disk, no whole file in memory."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

_PIECE = 2**18


class _Outbox(io.RawIOBase):
    """Keeps what was written until it is fetched."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: object) -> int:
        data = bytes(piece)  # type: ignore[call-overload]
        self._parts.append(data)
        return len(data)

    def fetch(self) -> bytes:
        found = b"".join(self._parts)
        self._parts.clear()
        return found


def zipped(files: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    """A zip of files under given names, piece by piece; equal files give equal bytes.

    What is in it is compressed already, so it is only put together.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "a.txt")
        >>> _ = file.write_text("hello")
        >>> ZipFile(io.BytesIO(b"".join(zipped([("b/a.txt", file)])))).read("b/a.txt")
        b'hello'
    """
    outbox = _Outbox()
    with ZipFile(outbox, "w", ZIP_STORED) as archive:
        for name, path in files:
            entry = ZipInfo(name)
            entry.file_size = path.stat().st_size
            entry.external_attr = 0o600 << 16
            with path.open("rb") as source, archive.open(entry, "w") as sink:
                while piece := source.read(_PIECE):
                    sink.write(piece)
                    yield outbox.fetch()
    yield outbox.fetch()
