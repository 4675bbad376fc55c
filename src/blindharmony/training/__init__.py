"""Learn a target scanner from its scans."""
