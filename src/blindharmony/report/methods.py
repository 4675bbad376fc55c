"""The methods paragraph for a paper, with the works it rests on."""

from __future__ import annotations

_BASIS = (
    "Scans were brought to the intensities of {target} with blindharmony {version}, a blind harmonization "
    "method: it learns from target scans only and needs no scan of the source scanner (Jeong et al., 2023). "
    "{mask}{n4}, and the scan was registered to the ICBM152 2009a symmetric template at 1 mm (Fonov et al., "
    "2011). The target was known from {scans}{flow}. {method} The result was returned on the scan's own grid."
)
_MASKS = {
    "network": "The brain was extracted with deepbet (Fisch et al., 2024)",
    "stripped": "The scan had been skull-stripped before",
    "command": "The brain was extracted with an external program",
    "given": "The brain was given by a mask of the user",
}
_FLOW = "; a multi-resolution normalizing flow of {couplings} fitted to them judged scan and result"

_REFERENCES = {
    "dinh": "Dinh L, Sohl-Dickstein J, Bengio S. Density estimation using Real NVP. International Conference on "
    "Learning Representations (ICLR), 2017. arXiv:1605.08803.",
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
    "yu": "Yu JJ, Derpanis KG, Brubaker MA. Wavelet Flow: fast training of high resolution normalizing flows. "
    "Advances in Neural Information Processing Systems 33, 2020. arXiv:2010.13821.",
}


def methods_text(
    *,
    target: str,
    scans: int,
    method: str,
    version: str,
    n4: bool = True,
    mask: str = "network",
    flow: bool = True,
    splines: bool = False,
) -> str:
    """A paragraph to paste, then its references, one per line.

    Args:
        target: Name of the target.
        scans: Number of target scans the model was fitted to.
        method: What was done, in sentences.
        version: Version of this package.
        n4: Whether the bias field was removed beforehand.
        mask: Where the brain mask came from: ``network``, ``stripped``, ``command`` or ``given``.
        flow: Whether the target has a whole-volume flow.
        splines: Whether that flow has spline couplings.

    Example:
        >>> text = methods_text(target="T", scans=40, method="A curve was fitted.", version="1.0", n4=False, flow=False)
        >>> "known from 40 scans. A curve was fitted." in text, "N4" in text
        (True, False)
    """
    couplings = "spline couplings (Durkan et al., 2019; " if splines else "affine couplings (Dinh et al., 2017; "
    paragraph = _BASIS.format(
        target=target,
        version=version,
        mask=_MASKS[mask],
        n4=", intensity non-uniformity was corrected with N4 (Tustison et al., 2010)" if n4 else "",
        scans=f"{scans} scan" if scans == 1 else f"{scans} scans",
        flow=_FLOW.format(couplings=couplings + "Yu et al., 2020)") if flow else "",
        method=method,
    )
    used = {
        "dinh": flow and not splines,
        "durkan": flow and splines,
        "fisch": mask == "network",
        "fonov": True,
        "jeong": True,
        "tustison": n4,
        "yu": flow,
    }
    return "\n".join([paragraph, "", *(text for name, text in _REFERENCES.items() if used[name])])
