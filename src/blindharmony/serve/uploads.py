"""Scans on their way in: piece by piece to disk, within limits, then looked at by the package's readers."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindharmony.errors import BlindHarmonyError, InputError, OutputError, UsageError
from blindharmony.image.geometry import check_affine, check_shape
from blindharmony.image.load import check_voxels_stored, open_image
from blindharmony.serve.job import new_id
from blindharmony.serve.names import safe_leaf, shown_name

_ROOM = 2**30
_LOOK_EVERY = 2**26
_FORGOTTEN_S = 6 * 3600


@dataclass(frozen=True)
class Upload:
    """A scan that was received and can be read.

    Attributes:
        id: Made here.
        label: What its owner calls it.
        leaf: A safe file name.
        size: Bytes.
        path: Where it is.
        came: When, by the clock of this process.
    """

    id: str
    label: str
    leaf: str
    size: int
    path: Path
    came: float = 0.0


class Uploads:
    """Received scans that are not part of a job yet; they do not outlive the program.

    Args:
        folder: Emptied at the start.
        most_bytes: Of one scan.
        most: How many may wait at once.
        room: Bytes that have to stay free on the disk.
        clock: Seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        most_bytes: int = 500 * 2**20,
        most: int = 200,
        room: int = _ROOM,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.most_bytes, self.most, self.room, self._clock = folder, most_bytes, most, room, clock
        shutil.rmtree(folder, ignore_errors=True)
        private(folder.parent)
        private(folder)
        self._waiting: dict[str, Upload] = {}
        self._coming = 0

    def get(self, upload_id: str) -> Upload | None:
        """A received scan."""
        return self._waiting.get(upload_id)

    def forget(self, upload_id: str) -> None:
        """Remove a received scan, or what is left of it after it became part of a job."""
        if self._waiting.pop(upload_id, None):
            shutil.rmtree(self.folder / upload_id, ignore_errors=True)

    async def receive(self, name: str, pieces: AsyncIterator[bytes], declared: int | None) -> Upload:
        """Write a scan to disk as it comes; nothing stays if anything goes wrong.

        Args:
            name: As the browser says; only its last part is shown, and only washed is it used.
            pieces: The bytes.
            declared: How many the browser promised.

        Raises:
            InputError: If the name is not a scan's, or it is empty or too large.
            OutputError: If the disk has too little room.
            UsageError: If too many wait already.
        """
        leaf, label = safe_leaf(name), shown_name(name)
        # The page that sent it is gone: nobody can start or remove it any more. A page that is there sends it again.
        for old in [u.id for u in self._waiting.values() if self._clock() - u.came > _FORGOTTEN_S]:
            self.forget(old)
        if len(self._waiting) + self._coming >= self.most:
            raise UsageError(f"{self.most} scans are waiting already", remedy="start or remove them first")
        self._check_size(declared or 0)
        self._check_room(declared or 0)
        upload_id = new_id()
        place = self.folder / upload_id
        self._coming += 1
        try:
            place.mkdir(mode=0o700)
            size = await self._written(place / leaf, pieces)
        except BaseException as error:
            shutil.rmtree(place, ignore_errors=True)
            if isinstance(error, OSError):
                raise OutputError("the disk does not take it", remedy="free some space") from error
            raise
        finally:
            self._coming -= 1
        upload = self._waiting[upload_id] = Upload(upload_id, label, leaf, size, place / leaf, self._clock())
        return upload

    async def _written(self, path: Path, pieces: AsyncIterator[bytes]) -> int:
        size, looked = 0, 0
        with path.open("xb") as file:
            async for piece in pieces:
                size += len(piece)
                self._check_size(size)
                if size - looked > _LOOK_EVERY:
                    looked = size
                    self._check_room(0)
                file.write(piece)
        if size == 0:
            raise InputError("the file is empty", remedy="convert or download it again")
        return size

    def _check_size(self, size: int) -> None:
        if size > self.most_bytes:
            raise TooLargeError(
                f"it is larger than {self.most_bytes >> 20} MB",
                remedy="check that it is one scan; whoever started this page can allow more with --max-upload-mb",
            )

    def _check_room(self, size: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free - size < self.room:
            raise OutputError("the disk is nearly full", remedy="delete old results or free some space")


def private(folder: Path) -> None:
    """Make a folder, if it is missing, that only its owner can look into."""
    # Scans are patients' data: on a shared computer they are nobody else's business.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


class TooLargeError(InputError):
    """An upload beyond the limit."""


def check_scan(path: Path) -> None:
    """Read a scan's header and count its bytes, without holding its voxels in memory.

    Raises:
        InputError: If it is no scan, damaged, or not a single volume.
    """
    image, _ = open_image(path)
    check_shape(image.shape, path)
    header: Any = image.header
    check_affine(header.get_best_affine() if image.affine is None else image.affine, path)
    check_voxels_stored(image, path)


def in_words(error: BlindHarmonyError) -> dict[str, str]:
    """What went wrong and what to do, without the server's folders.

    Example:
        >>> in_words(InputError("the file is empty", remedy="convert it again", path="/home/x/a.nii"))
        {'what': 'the file is empty', 'remedy': 'convert it again'}
    """
    return {"what": error.what, "remedy": error.remedy}
