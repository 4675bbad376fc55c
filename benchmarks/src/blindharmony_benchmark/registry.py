"""Every system by name; those that need MONAI are looked up only when they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType

from blindharmony.errors import UsageError
from blindharmony_benchmark.system import System
from blindharmony_benchmark.systems.blind import (
    Curve,
    CurveUnrefined,
    Group,
    GroupUnrefined,
    Latent,
    MatchRefined,
    Published,
)
from blindharmony_benchmark.systems.chained import (
    CombatImages,
    DenoisedMatch,
    PooledPowerMatch,
    PowerMatch,
    SharpnessMatch,
)
from blindharmony_benchmark.systems.classical import (
    BiasOnly,
    CorrectedMatch,
    ItkMatch,
    Match,
    MatchWhole,
    MinMax,
    Nothing,
    Nyul,
    PooledMatch,
    WhiteStripe,
    ZScore,
)
from blindharmony_benchmark.systems.spectra import FourierAdaptation, Spectrum
from blindharmony_benchmark.systems.tissues import Ravel, TissueMean, TissueMeans

#: Module with ``SYSTEMS``, the classes of all trained systems, and what has to be installed for it.
_NETWORKS, _EXTRA = "blindharmony_benchmark.networks", "pip install monai"


@dataclass(frozen=True)
class Entry:
    """A system as the benchmark plans with it.

    Attributes:
        name: As in the table.
        seconds: Typical for a scan on two cores.
        costly: Whether it runs only where it is asked to.
        trained: Whether a network is trained for it.
        paired: Whether it needs heads that were on both scanners: no real source here has them.
        made: The class; None where its module is looked up later.
        ours: Whether it is this package's own method.
        again: How often it finds the bias field of a scan again.
    """

    name: str
    seconds: float
    costly: bool = False
    trained: bool = False
    paired: bool = False
    made: type[System] | None = None
    ours: bool = False
    again: int = 0

    @property
    def learns(self) -> bool:
        """Whether it learns from training scans, by a network or otherwise."""
        return self.trained or (self.made is not None and self.made.fit is not System.fit)

    @property
    def iterates(self) -> bool:
        """Whether it is slow without learning anything: the published iteration."""
        return self.costly and not self.trained

    def system(self) -> System:
        """A new one, not taught yet.

        Raises:
            UsageError: If what it needs is not installed.
        """
        if self.made is not None:
            return self.made()
        try:
            found: Sequence[type[System]] = import_module(_NETWORKS).SYSTEMS
        except ImportError as error:
            raise UsageError(f"'{self.name}' needs {error.name or 'more'}", remedy=_EXTRA) from error
        chosen = next((s for s in found if s.name == self.name), None)
        if chosen is None:
            raise UsageError(f"there is no trained system '{self.name}'", remedy="leave it out")
        return chosen()


_ENTRIES = (
    Entry("nothing", 0.0, made=Nothing),
    Entry("min-max", 0.1, made=MinMax),
    Entry("n4", 0.0, made=BiasOnly),
    Entry("match-whole", 0.5, made=MatchWhole),
    Entry("match", 0.3, made=Match),
    Entry("n4-match", 0.3, made=CorrectedMatch),
    Entry("pooled-match", 0.3, made=PooledMatch),
    Entry("itk-match", 1.0, made=ItkMatch),
    Entry("n4-power-n4-match", 0.5, made=PowerMatch, again=1),
    Entry("pooled-power-match", 0.5, made=PooledPowerMatch, again=1),
    Entry("denoise-match", 12.0, made=DenoisedMatch),
    Entry("sharp-match", 5.0, made=SharpnessMatch),
    Entry("combat-images", 2.0, made=CombatImages),
    Entry("nyul", 0.2, made=Nyul),
    Entry("z-score", 0.2, made=ZScore),
    Entry("white-stripe", 0.3, made=WhiteStripe),
    Entry("fcm", 0.5, made=TissueMean),
    Entry("lsq", 0.5, made=TissueMeans),
    Entry("ravel", 2.0, made=Ravel),
    Entry("spectrum", 0.5, made=Spectrum),
    Entry("fourier-adaptation", 1.0, made=FourierAdaptation),
    Entry("deepharmony", 15.0, costly=True, trained=True, paired=True),
    Entry("cyclegan", 15.0, costly=True, trained=True),
    Entry("style-gan", 15.0, costly=True, trained=True),
    Entry("target-unet", 15.0, costly=True, trained=True),
    Entry("harmonizing-flows", 15.0, costly=True, trained=True),
    Entry("latent-published", 110.0, costly=True, made=Published),
    Entry("latent", 110.0, costly=True, made=Latent),
    Entry("match-refined", 3.0, made=MatchRefined, ours=True),
    Entry("curve-unrefined", 3.0, made=CurveUnrefined, ours=True, again=2),
    Entry("curve", 9.0, made=Curve, ours=True, again=2),
    Entry("group-unrefined", 5.0, made=GroupUnrefined, ours=True, again=2),
    Entry("group", 12.0, made=Group, ours=True, again=2),
)

ENTRIES: Mapping[str, Entry] = MappingProxyType({e.name: e for e in _ENTRIES})
#: What every other row is tested against.
BASELINE = "n4-match"


def chosen(names: Sequence[str] | None) -> tuple[Entry, ...]:
    """Systems by name, all if None; in the table's order.

    Raises:
        UsageError: If there is no such system.

    Example:
        >>> [e.name for e in chosen(["curve", "match"])]
        ['match', 'curve']
    """
    for name in names or ():
        if name not in ENTRIES:
            raise UsageError(f"there is no system '{name}'", remedy=f"choose of {', '.join(ENTRIES)}")
    return tuple(e for e in _ENTRIES if names is None or e.name in names)
