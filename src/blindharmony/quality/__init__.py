"""Whether a scan or a result is like the target, and whether it can be trusted."""
