"""The evidence: every system that people use or that the paper is compared with, on simulated and real scanners."""
