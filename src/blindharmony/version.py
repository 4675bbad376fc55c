"""Which version this is, and which versions it works with."""

import platform
from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("blindharmony")
except PackageNotFoundError:  # running from a checkout that was never installed
    VERSION = "0+unknown"

_DECIDES = ("torch", "numpy", "scipy", "nibabel", "SimpleITK")


def versions() -> dict[str, str]:
    """Versions of everything that decides a result, without importing it.

    Example:
        >>> sorted(versions())[:2]
        ['SimpleITK', 'blindharmony']
    """
    return {"blindharmony": VERSION, "python": platform.python_version(), **{n: version(n) for n in _DECIDES}}
