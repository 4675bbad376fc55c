"""Which version this is, which versions it works with, and what has another name than in an earlier one."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import ClassVar

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


class OldNames:
    """A finder of modules that knows none, but what those of version 0.1 are called now."""

    _NEW: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("pipeline", "assessment", "group", "intake", "stages"), "blindharmony.api"),
        **dict.fromkeys(("record", "lookup", "rerun", "viewing"), "blindharmony.provenance"),
        **dict.fromkeys(
            ("evidence", "simulation"), "blindharmony_benchmark (pip install ./benchmarks, in a copy of the source)"
        ),
        "flow": "blindharmony.flows",
        "image": "blindharmony.io",
        "interop": "blindharmony.integrations",
        "lock": "blindharmony.locks",
        "prep": "blindharmony.preprocessing",
        "result_evidence": "blindharmony.result",
        "target": "blindharmony.models",
        "viewer": "blindharmony.report.viewer",
    }

    @classmethod
    def hint(cls, module: str) -> str | None:
        """What a module is called now; None if it was none of version 0.1.

        Example:
            >>> OldNames.hint(f"{__package__}.prep").rpartition(" has ")[2]
            'another name since version 0.1: blindharmony.preprocessing'
        """
        package, _, name = module.rpartition(".")
        if package != __package__ or name not in cls._NEW:
            return None
        return f"{module} has another name since version 0.1: {cls._NEW[name]}"

    @classmethod
    def find_spec(cls, fullname: str, path: object = None, target: object = None) -> None:
        """Called by Python when no other finder knows a module.

        Raises:
            ModuleNotFoundError: With the new name, if the module has one.
        """
        # With a name in the error Python would hide it when it comes from an import of several things.
        if hint := cls.hint(fullname):
            raise ModuleNotFoundError(hint)
