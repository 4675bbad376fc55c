"""Signal of a tissue in two T1-weighted sequences, from its relaxation times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from blindharmony.simulation.tissues import CSF, GREY, WHITE


@dataclass(frozen=True)
class Tissue:
    """Relaxation times in ms at 3 T, and proton density relative to water.

    Source:
        T1 and T2* of grey and white matter: Wansapura et al., J. Magn. Reson. Imaging 9, 1999 (T2* rounded; it is
        the same for both and hardly counts at short TE). T1 of CSF: Lu et al., J. Magn. Reson. Imaging 22, 2005,
        who measure 3817 and hold 4300 for likelier. T2* of CSF: its T2, Piechnik et al., Magn. Reson. Med. 61, 2009.
        Proton density: water content as in Gasparovic et al., Magn. Reson. Med. 55, 2006.
    """

    t1: float
    t2star: float
    density: float


TISSUES: Mapping[int, Tissue] = {
    CSF: Tissue(4300.0, 500.0, 0.97),
    GREY: Tissue(1331.0, 47.0, 0.78),
    WHITE: Tissue(832.0, 47.0, 0.65),
}


def spoiled_gradient_echo(tissue: Tissue, *, tr: float, te: float, flip: float) -> float:
    """``PD sin α (1 - E) / (1 - E cos α) exp(-TE/T2*)`` with ``E = exp(-TR/T1)``.

    Args:
        tissue: Relaxation times and proton density.
        tr: Repetition time, ms.
        te: Echo time, ms.
        flip: Flip angle α, degrees.

    Source:
        Ernst and Anderson 1966; the FLASH equation.

    Example:
        >>> signal = {t: spoiled_gradient_echo(x, tr=20, te=5, flip=20) for t, x in TISSUES.items()}
        >>> round(signal[GREY] / signal[WHITE], 3)
        0.838
    """
    alpha, e1 = math.radians(flip), math.exp(-tr / tissue.t1)
    return tissue.density * math.sin(alpha) * (1 - e1) / (1 - e1 * math.cos(alpha)) * math.exp(-te / tissue.t2star)


def mprage(tissue: Tissue, *, tr: float, ti: float, te: float, flip: float, echoes: int, spacing: float) -> float:
    """Magnitude signal of an inversion, a wait, and a train of small flips, at the middle of the train.

    Each part is a straight line for the magnetization, ``m -> a m + b``: inversion ``-m``, waiting
    ``1 + (m - 1) exp(-t/T1)``, a flip and the time to the next ``1 + (m cos α - 1) exp(-spacing/T1)``. One cycle is
    their product, and its fixed point the steady state.

    Args:
        tissue: Relaxation times and proton density.
        tr: From one inversion to the next, ms.
        ti: From the inversion to the middle of the train, ms.
        te: Echo time, ms.
        flip: Flip angle α, degrees.
        echoes: Flips in a train.
        spacing: Time between them, ms.

    Source:
        Mugler and Brookeman 1990 (sequence); Wang et al., Magn. Reson. Med. 2014 (steady state of its signal).

    Example:
        >>> word = dict(tr=2300, ti=900, te=3, flip=9, echoes=160, spacing=7)
        >>> signal = {t: mprage(x, **word) for t, x in TISSUES.items()}
        >>> round(signal[GREY] / signal[WHITE], 3)
        0.676
    """
    alpha, half = math.radians(flip), echoes // 2

    def wait(ms: float) -> tuple[float, float]:
        e = math.exp(-ms / tissue.t1)
        return e, 1 - e

    def train(flips: int) -> tuple[float, float]:
        e = math.exp(-spacing / tissue.t1)
        a, b = e * math.cos(alpha), 1 - e
        return a**flips, b * (1 - a**flips) / (1 - a)

    def then(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
        return second[0] * first[0], second[0] * first[1] + second[1]

    before = then((-1.0, 0.0), wait(ti - half * spacing))
    middle = then(before, train(half))
    rest = then(train(echoes - half), wait(tr - ti - (echoes - half) * spacing))
    a, b = then(middle, rest)
    steady = b / (1 - a)
    m = middle[0] * steady + middle[1]
    return tissue.density * abs(m) * math.sin(alpha) * math.exp(-te / tissue.t2star)
