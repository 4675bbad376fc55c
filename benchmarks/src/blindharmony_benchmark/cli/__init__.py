"""The commands benchmark and simulate."""
