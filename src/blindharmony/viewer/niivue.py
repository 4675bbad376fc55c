"""The viewer program: niivue, whole and unchanged, as its makers publish it."""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources

VERSION = "0.69.0"
SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"


def niivue() -> str:
    """Its text.

    Raises:
        RuntimeError: If the installed file is not the one that was checked.
    """
    packed = resources.files("blindharmony.viewer").joinpath("assets", "niivue.umd.js.gz").read_bytes()
    plain = gzip.decompress(packed)
    if hashlib.sha256(plain).hexdigest() != SHA256:
        raise RuntimeError("the viewer program has changed: install blindharmony again")
    return plain.decode("utf-8")


def licences() -> str:
    """The terms of niivue and of what is inside it; they travel with every copy."""
    return resources.files("blindharmony.viewer").joinpath("assets", "niivue-licences.txt").read_text(encoding="utf-8")
