"""Scans in, results out: reading, checking, naming and writing images."""

from blindharmony.image.atomic import atomic_path, write_bytes, write_text
from blindharmony.image.find import find_scans, is_bids
from blindharmony.image.masks import find_mask, find_masks
from blindharmony.image.names import (
    entities,
    mask_name,
    output_name,
    report_name,
    result_names,
    sidecar_name,
    split_name,
    viewer_name,
)
from blindharmony.image.sidecar import file_sha256, write_sidecar
from blindharmony.image.template import Template
from blindharmony.image.text import parse_json, read_text
from blindharmony.image.together import written_together
from blindharmony.image.volume import Volume, read_volume
from blindharmony.image.write import write_like

__all__ = [
    "Template",
    "Volume",
    "atomic_path",
    "entities",
    "file_sha256",
    "find_mask",
    "find_masks",
    "find_scans",
    "is_bids",
    "mask_name",
    "output_name",
    "parse_json",
    "read_text",
    "read_volume",
    "report_name",
    "result_names",
    "sidecar_name",
    "split_name",
    "viewer_name",
    "write_bytes",
    "write_like",
    "write_sidecar",
    "write_text",
    "written_together",
]
