"""From a scan to the space of the flow, and back."""
