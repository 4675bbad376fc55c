"""Look at what a target's flow has learnt: heads it makes up, and what it adds to a given one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import OutputError, UsageError
from blindharmony.harmonization.draw import drawn_heads, pyramid_of, redrawn
from blindharmony.harmonization.match import harmonize_match
from blindharmony.harmonization.standing import level_names
from blindharmony.image import read_volume, write_like, write_text
from blindharmony.image.volume import Source
from blindharmony.intake import naming, prepared_for
from blindharmony.prep.template import load_template
from blindharmony.report.page import Section, Strip, render_page, strip_of
from blindharmony.target import Target, load_target
from blindharmony.version import VERSION

TEMPERATURES = (0.5, 0.8, 1.0)
_WHITE = 1.6


def sample(
    target: str | PathLike[str] | Target,
    out: str | Path,
    *,
    number: int = 1,
    temperatures: Sequence[float] = TEMPERATURES,
    seed: int = 0,
    scan: Source | None = None,
    mask: Source | None = None,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Draw heads from a target's flow and write them with a sheet of pictures.

    Args:
        target: A model, its file, or the name of an included one.
        out: Folder for ``sample-01_temperature-0.50.nii.gz``, ..., ``samples.json`` and ``samples.html``.
        number: Heads of each temperature.
        temperatures: Standard deviations of the latents.
        seed: Equal seeds give equal files.
        scan: A scan whose fine details are drawn anew, level by level, for the sheet.
        mask: Its brain mask; found automatically if not given.
        overwrite: Replace existing files.

    Returns:
        The files written, the sheet last.

    Raises:
        UsageError: If a number or temperature is out of range.
        TargetError: If the target has no whole-volume flow.
        OutputError: If a file exists and ``overwrite`` is false, or cannot be written.

    Example:
        >>> sample("ds002748", "out")                                             # doctest: +SKIP
    """
    if number < 1 or seed < 0 or not temperatures or not all(0 <= t <= 2 for t in temperatures):
        what = "--number must be positive, --seed not negative, temperatures from 0 to 2"
        raise UsageError(what, remedy="leave them out")
    temperatures = list(dict.fromkeys(temperatures))
    if len({f"{t:.2f}" for t in temperatures}) < len(temperatures):
        raise UsageError("two temperatures are the same to two digits", remedy="leave one out")
    model, folder = load_target(target), Path(out)
    pyramid_of(model)
    names = [[f"sample-{index + 1:02d}_temperature-{t:.2f}.nii.gz" for index in range(number)] for t in temperatures]
    sheet, notes = folder / "samples.html", folder / "samples.json"
    for file in [*(folder / n for row in names for n in row), notes, sheet]:
        if file.exists() and not overwrite:
            raise OutputError("exists already", remedy="pass --overwrite or choose another folder", path=file)
    scanned = [] if scan is None else [_scan_section(model, scan, mask, seed)]
    inside = model.coverage > 0.5
    strips = [_mean_strip(model)]
    grid = read_volume(model.coverage, affine=grid_2mm())
    files = []
    for row, temperature in zip(names, temperatures, strict=True):
        heads = drawn_heads(model, temperature=temperature, number=number, seed=seed)
        for index, (name, head) in enumerate(zip(row, heads, strict=True)):
            files.append(write_like(grid, head * np.float32(model.info.unit), folder / name, overwrite=overwrite))
            strips.append(strip_of(f"temperature {temperature:g}, head {index + 1}", head, inside, (0, _WHITE)))
    about = {
        "Target": {"Name": model.info.name, "Digest": model.digest},
        "Seed": seed,
        "Temperatures": temperatures,
        "Number": number,
        "Units": f"intensity units of the target scanner '{model.info.name}'",
        "Files": [f.name for f in files],
        "Version": VERSION,
    }
    files.append(write_text(notes, json.dumps(about, indent=2) + "\n", overwrite=overwrite))
    page = render_page(model.info.name, "Samples of a target's flow", [_drawn_section(strips), *scanned])
    return (*files, write_text(sheet, page, overwrite=overwrite))


def grid_2mm() -> NDArray[np.float64]:
    """The affine of the template grid at 2 mm: each voxel's centre lies between the 1 mm voxels it covers.

    Example:
        >>> np.abs(grid_2mm()[:3, :3]).sum()
        np.float64(6.0)
    """
    coarser = np.diag([2.0, 2.0, 2.0, 1.0])
    coarser[:3, 3] = 0.5
    return np.asarray(load_template().affine @ coarser)


def _mean_strip(target: Target) -> Strip:
    inside = target.coverage > 0.5
    return strip_of("mean of the training scans", np.where(inside, target.mean_image, 0), inside, (0, _WHITE))


def _drawn_section(strips: Sequence[Strip]) -> Section:
    return Section(
        "Heads drawn from the flow",
        notes=(
            "Nobody's head: random numbers through the flow. At temperature 1 they are what the flow believes; below "
            "1 they are nearer to the most usual head. Layout and contrast should be those of the mean image above; "
            "texture that looks like noise is detail the flow knows only as roughness.",
        ),
        strips=strips,
    )


def _scan_section(target: Target, scan: Source, mask: Source | None, seed: int) -> Section:
    source = read_volume(scan)
    with naming(source):
        prepared = prepared_for(target, source, mask=mask)
    inside = prepared.scan.inside()
    matched = harmonize_match(prepared.scan.data, inside, target).image
    images = redrawn(target, matched, inside, seed=seed)
    names = level_names(target)
    labels = ["the scan at 2 mm, histogram-matched to the target"]
    labels += [f"drawn: {', '.join(names[: count + 1])}" for count in range(len(images) - 1)]
    shown = images[0] != 0
    return Section(
        f"What each level knows: {source.path.name if source.path else 'the scan'}",
        notes=(
            "From top to bottom more of the scan's details are replaced by random ones that the flow thinks probable "
            "given the coarser image (temperature 1). Where a picture still shows this head, coarse levels hold it.",
        ),
        strips=[strip_of(label, image, shown, (0, _WHITE)) for label, image in zip(labels, images, strict=True)],
    )
