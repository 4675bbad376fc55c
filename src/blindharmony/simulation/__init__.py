"""What another scanner would have made of a scan: simulated source scanners with a known truth.

Only numpy and scipy compute here; see :mod:`blindharmony.simulation.domains` for the list.
"""

from blindharmony.simulation.domains import DOMAINS, Domain
from blindharmony.simulation.simulate import Simulated, draw_scanner, simulate
from blindharmony.simulation.view import View, reference_level
from blindharmony.simulation.volume import simulate_volume

__all__ = [
    "DOMAINS",
    "Domain",
    "Simulated",
    "View",
    "draw_scanner",
    "reference_level",
    "simulate",
    "simulate_volume",
]
