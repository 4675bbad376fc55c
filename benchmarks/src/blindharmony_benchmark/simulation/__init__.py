"""What another scanner would have made of a scan: simulated source scanners with a known truth.

Only numpy and scipy compute here; see :mod:`blindharmony_benchmark.simulation.domains` for the list.
"""
