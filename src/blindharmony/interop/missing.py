"""One line for a library that is not installed."""

from __future__ import annotations

from blindharmony.errors import BlindHarmonyError


class MissingLibraryError(BlindHarmonyError, ImportError):  # type: ignore[misc]  # both have a path, None here
    """A library of others that this module stands on is not installed.

    Example:
        >>> str(MissingLibraryError("MONAI", extra="monai"))
        "MONAI is not installed; run 'pip install blindharmony[monai]'"
    """

    def __init__(self, library: str, *, extra: str) -> None:
        super().__init__(f"{library} is not installed", remedy=f"run 'pip install blindharmony[{extra}]'")
