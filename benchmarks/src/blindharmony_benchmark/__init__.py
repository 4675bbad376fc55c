"""The evidence: every system on simulated and real source scanners, and the segmentation network that recovers.

A distribution of its own: the harmonizer works without it. When it is installed, ``blindharmony benchmark`` and
``blindharmony simulate`` appear (entry points of the group ``blindharmony.commands``).
"""
