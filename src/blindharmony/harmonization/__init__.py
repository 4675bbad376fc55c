"""What the target scanner would have made of a scan: the scanner model, its estimation, and the way back.

A scan is summarized (:mod:`.summary`), a curve of intensity is fitted to it alone (:mod:`.curve`) or to all scans of
its scanner (:mod:`.scanner`), noise and blur are taken out (:mod:`.refine`), and the change goes to the scan's own
voxels (:mod:`.native`). :mod:`.methods` names the ways to harmonize; :mod:`.published` is that of Jeong et al. (2023).
"""
