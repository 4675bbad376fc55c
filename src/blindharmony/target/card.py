"""A target model in plain words."""

from __future__ import annotations

import numpy as np

from blindharmony.target.model import Target


def card_rows(target: Target) -> list[tuple[str, str]]:
    """What a model is, as names and values: data, preparation, size, held-out figures, licence, hash."""
    info, held_out = target.info, target.info.held_out
    modules = [m for m in (target.pyramid, target.slices, target.restorer) if m is not None]
    weights = sum(p.numel() for m in modules for p in m.parameters())
    recipe = info.recipe
    rows = [
        ("target", info.name),
        ("contrast", info.suffix),
        ("data", info.data or "not recorded"),
        ("training scans", str(info.scans)),
        ("held-out scans", str(held_out.scans)),
        ("licence", info.licence or "not recorded"),
        (
            "preparation",
            f"{recipe.digest()}: template {recipe.template}, N4 {'on' if recipe.n4 else 'off'}, gain {recipe.gain}",
        ),
        ("weights", f"{weights:,}"),
        ("networks", ", ".join(_networks(target)) or "none"),
        ("intensity unit", f"1.0 in the flow is {info.unit:.4g} on the target scanner"),
    ]
    if held_out.bits_per_dim:
        bits = held_out.bits_per_dim
        rows.append(
            (
                "held-out bits/dim",
                f"{np.mean(bits):.3f} ({min(bits):.3f} to {max(bits):.3f}), at 2 mm and 256 grey levels",
            )
        )
        levels = np.mean(held_out.level_bits, 0)
        rows.append(("  by level", ", ".join(f"{b:.2f}" for b in levels) + " (finest first, coarsest image last)"))
        spreads = ", ".join(f"{s:.3f}" for s in held_out.latent_sd)
        rows.append(("  latent spread", f"{spreads} before calibration (1: calibrated)"))
        for name, own in zip(("finest", "second", "third", "fourth"), held_out.latent_channels, strict=False):
            rows.append((f"    {name}, by channel", ", ".join(f"{s:.2f}" for s in own)))
        for name, by_level in held_out.honesty.items():
            means = ", ".join(f"{100 * np.mean(scans):+.1f}" for scans in by_level).replace("-", "−")
            rows.append((f"  most probable {name}", f"{means} % by resolution, mean of held-out scans (0: honest)"))
    if held_out.matching_error:
        error = np.mean(held_out.matching_error)
        rows.append(("matching alone", f"misses a left-out scan's intensities by {error:.4f} (rms, flow units)"))
    if held_out.person_error:
        error = np.mean(held_out.person_error)
        rows.append(("with the person model", f"misses them by {error:.4f}"))
    if held_out.restorer_change:
        rows.append(
            ("restorer", f"changes unseen scans of the target by {max(held_out.restorer_change):.4f} at most (rms)")
        )
    if held_out.slice_bits is not None:
        rows.append(("slice flow bits/dim", f"{held_out.slice_bits:.3f}, at 1 mm"))
    rows += [(k, v) for k, v in info.notes.items()]
    rows += [
        ("made with", f"blindharmony {info.made_with}, seed {info.seed}, format {info.format}"),
        ("hash", target.digest),
    ]
    return rows


def _networks(target: Target) -> list[str]:
    found = []
    if target.pyramid is not None:
        found.append(f"whole-volume pyramid ({len(target.pyramid.levels)} levels)")
    if target.slices is not None:
        found.append("slice flow")
    if target.restorer is not None:
        found.append("restorer")
    return found
