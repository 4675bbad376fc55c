"""Measures of agreement and of anatomy, inside a brain mask, in numpy and scipy only."""

from blindharmony.report.metrics.anatomy import local_spearman, new_edges
from blindharmony.report.metrics.distance import wasserstein
from blindharmony.report.metrics.similarity import ncc, psnr, ssim
from blindharmony.report.metrics.tissue import tissue_contrast, tissue_medians

__all__ = [
    "local_spearman",
    "ncc",
    "new_edges",
    "psnr",
    "ssim",
    "tissue_contrast",
    "tissue_medians",
    "wasserstein",
]
