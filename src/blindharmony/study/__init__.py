"""Whole cohorts: which scans, on which scanners; nothing lost, nothing done twice."""
