"""A page to look through two volumes at once, made of one file; it needs no network and no server."""

from blindharmony.viewer.packing import Packed, pack
from blindharmony.viewer.page import render_viewer, write_viewer

__all__ = ["Packed", "pack", "render_viewer", "write_viewer"]
