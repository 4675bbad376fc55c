"""The methods paragraph for a paper, with the works it rests on."""

from __future__ import annotations

_BASIS = (
    "Scans were brought to the intensities of {target} with blindharmony {version}, a blind harmonization "
    "method: it learns from target scans only and needs no scan of the source scanner (Jeong et al., 2023). "
    "The brain was extracted with {extraction}{n4}, and the scan was registered to the ICBM152 2009a "
    "symmetric template at 1 mm (Fonov et al., 2011). A normalizing flow of spline couplings (Durkan et al., "
    "2019) had been fitted to {scans} of the target. {method} The result was returned on the scan's own grid."
)

_REFERENCES = {
    "durkan": "Durkan C, Bekasov A, Murray I, Papamakarios G. Neural spline flows. "
    "Advances in Neural Information Processing Systems 32, 2019. arXiv:1906.04032.",
    "fisch": "Fisch L, et al. deepbet: Fast brain extraction of T1-weighted MRI using convolutional neural "
    "networks. Computers in Biology and Medicine 179:108845, 2024. arXiv:2308.07003.",
    "fonov": "Fonov V, Evans AC, Botteron K, Almli CR, McKinstry RC, Collins DL. Unbiased average "
    "age-appropriate atlases for pediatric studies. NeuroImage 54(1):313–327, 2011.",
    "jeong": "Jeong H, Byun H, Kang DU, Lee J. BlindHarmony: “blind” harmonization for MR images via flow "
    "model. IEEE/CVF International Conference on Computer Vision (ICCV), 2023. arXiv:2305.10732.",
    "tustison": "Tustison NJ, et al. N4ITK: improved N3 bias correction. "
    "IEEE Transactions on Medical Imaging 29(6):1310–1320, 2010.",
}


def methods_text(*, target: str, scans: int, method: str, version: str, n4: bool = True, deepbet: bool = True) -> str:
    """A paragraph to paste, then its references, one per line.

    Args:
        target: Name of the target.
        scans: Number of target scans the model was fitted to.
        method: One sentence on what was optimised.
        version: Version of this package.
        n4: Whether the bias field was removed beforehand.
        deepbet: Whether the included brain extractor made the mask; otherwise it was given.

    Example:
        >>> text = methods_text(target="T", scans=40, method="A curve was fitted.", version="1.0", n4=False)
        >>> "40 scans of the target. A curve was fitted." in text, "N4" in text
        (True, False)
    """
    paragraph = _BASIS.format(
        target=target,
        version=version,
        extraction="deepbet (Fisch et al., 2024)" if deepbet else "a mask given by the user",
        n4=", intensity non-uniformity was corrected with N4 (Tustison et al., 2010)" if n4 else "",
        scans=f"{scans} scan" if scans == 1 else f"{scans} scans",
        method=method,
    )
    used = {"durkan": True, "fisch": deepbet, "fonov": True, "jeong": True, "tustison": n4}
    return "\n".join([paragraph, "", *(_REFERENCES[name] for name, here in used.items() if here)])
