"""From the scan to the flow's space and back: recorded steps, each of which can be undone."""
