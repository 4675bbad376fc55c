"""The scanner model and the methods."""
