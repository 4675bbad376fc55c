"""Tasks on one or many processors."""
