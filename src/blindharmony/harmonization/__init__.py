"""Estimate the harmonized image under the target's density."""
