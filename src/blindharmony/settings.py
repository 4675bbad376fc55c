"""The settings of a harmonization; quick to import, so that a typing error on the command line answers at once."""

from __future__ import annotations

from typing import Literal, get_args

Method = Literal["curve", "match", "latent", "latent-published"]
METHODS: tuple[str, ...] = get_args(Method)

# One full sentence each: help texts and the methods paragraph of reports use them.
ABOUT: dict[str, str] = {
    "curve": "One increasing intensity curve was inferred: masked histogram matching to the quantile curve that this "
    "person would have on the target scanner, predicted from the order of the intensities and their place in the head.",
    "match": "Intensities were matched, rank by rank inside the brain, to the target's mean quantile curve; no flow "
    "was used.",
    "latent": "The published BlindHarmony iteration (correlation and non-edge terms, shrinkage of the flow's latent) "
    "was run slice by slice with tuned settings.",
    "latent-published": "The published BlindHarmony iteration was run slice by slice with the settings of the "
    "released program (August 2023).",
}
