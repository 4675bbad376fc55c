"""Whole cohorts: which scans, on which scanners; many workers, nothing lost, nothing done twice."""
