"""What a notebook shows of a result: the verdict in words, the brain before and after, and the warnings."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from blindharmony.quality.verdict import Verdict
from blindharmony.report.pictures import before_and_after, jpeg

Image: TypeAlias = NDArray[np.floating[Any]]

_FIGURE = Markup(
    '<figure style="margin:4px 0"><img alt="{0}: axial slices" src="{1}"><figcaption>{0}</figcaption></figure>'
)


def result_card(
    name: str,
    verdict: Verdict,
    before: NDArray[np.floating[Any]],
    after: NDArray[np.floating[Any]],
    mask: NDArray[np.bool_],
) -> str:
    """A piece of HTML that needs nothing from elsewhere; both pictures have one window of intensities.

    Args:
        name: Of the scan.
        verdict: On the result.
        before: The scan, RAS+, target's units, shape ``(X, Y, Z)``.
        after: The result.
        mask: The brain.

    Example:
        >>> scan = np.random.default_rng(0).random((8, 9, 10))
        >>> card = result_card("<a>.nii", Verdict((), "T"), scan, scan, scan > 0)
        >>> card.count("<img"), "&lt;a&gt;.nii" in card
        (2, True)
    """
    pictures = [
        _FIGURE.format(words, jpeg(pixels))
        for words, pixels in zip(("before", "harmonized"), before_and_after(before, after, mask), strict=True)
    ]
    warnings = Markup("").join(Markup("<li>{}</li>").format(warning) for warning in verdict.warnings)
    listed = Markup("<ul>{}</ul>").format(warnings) if warnings else ""
    return str(Markup("<div><strong>{}</strong>: {}{}{}{}</div>").format(name, verdict.headline, listed, *pictures))
