"""What is measured of a harmonized scan: against its truth, against the target's people, and in a segmentation."""
