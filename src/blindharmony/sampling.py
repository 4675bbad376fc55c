"""What a target's flow has learnt, to be looked at: heads that it makes up, and a scan with details drawn anew.

:func:`sample` writes both, with a sheet of pictures. :func:`drawn_heads` sends random numbers through the flow;
:func:`redrawn` keeps a scan's coarse image and replaces more and more of its details.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from blindharmony.api import naming, prepared_for
from blindharmony.errors import OutputError, TargetError, UsageError
from blindharmony.files import check_outputs, write_text
from blindharmony.flows.pyramid import Pyramid, redraw
from blindharmony.harmonization.summary import harmonize_match
from blindharmony.io.volume import Source, read_volume
from blindharmony.io.write import write_like
from blindharmony.models.file import load_target
from blindharmony.models.target import Target
from blindharmony.preprocessing.registration import load_template
from blindharmony.quality.typicality import level_names, reduced
from blindharmony.report.page import Section, Strip, render_page, strip_of
from blindharmony.version import VERSION

Image = NDArray[np.float32]

#: Standard deviations of the latents that are shown.
TEMPERATURES = (0.5, 0.8, 1.0)
#: Intensity that is white in pictures, flow units.
WHITE = 1.6


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
        check_outputs([file], [source for source in (scan, mask, target) if isinstance(source, str | Path)])
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
            strips.append(strip_of(f"temperature {temperature:g}, head {index + 1}", head, inside, (0, WHITE)))
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


def drawn_heads(target: Target, *, temperature: float = 1.0, number: int = 1, seed: int = 0) -> Image:
    """Draw heads inside the brain that at least half of the training masks cover.

    Args:
        target: With a whole-volume flow.
        temperature: Standard deviation of the latents: 1 is what the flow believes, less is nearer to the usual.
        number: How many.
        seed: Head ``i`` is the same at every temperature but for the size of what is random about it, and no head of
            another seed.

    Returns:
        Flow units, the template grid at 2 mm, shape ``(number, 80, 96, 80)``, zero outside.

    Raises:
        TargetError: If the target has no whole-volume flow.
    """
    flow = pyramid_of(target)
    mask = torch.from_numpy(target.coverage > 0.5)[None, None]
    heads = []
    for index in range(number):
        # Neighbouring seeds would share heads if the two were added.
        head_seed = int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0])
        generator = torch.Generator().manual_seed(head_seed)
        with torch.inference_mode():
            heads.append(flow.sample(mask, temperature=temperature, generator=generator)[0, 0].numpy())
    return np.stack(heads)


def redrawn(
    target: Target, image: Image, mask: NDArray[np.bool_], *, temperature: float = 1.0, seed: int = 0
) -> list[Image]:
    """A head at 2 mm, then with the finest level drawn anew, then the two finest, and so on to all details.

    Args:
        target: With a whole-volume flow.
        image: Template grid at 1 mm, flow units.
        mask: Brain.
        temperature: Standard deviation of the latents.
        seed: Of what is drawn.

    Returns:
        One image more than the flow has levels of detail, each ``(80, 96, 80)``.

    Raises:
        TargetError: If the target has no whole-volume flow.
    """
    flow = pyramid_of(target)
    x, inside = reduced(image, mask & target.fit_region, 1)
    images = []
    for levels in range(len(flow.levels) + 1):
        generator = torch.Generator().manual_seed(seed)
        images.append(
            redraw(flow, x, inside, levels=levels, temperature=temperature, generator=generator)[0, 0].numpy()
        )
    return images


def pyramid_of(target: Target) -> Pyramid:
    """The target's whole-volume flow.

    Raises:
        TargetError: If it has none.
    """
    if target.pyramid is None:
        raise TargetError(
            f"the target '{target.info.name}' has no whole-volume flow to draw from",
            remedy="train one with 'blindharmony train'",
        )
    return target.pyramid


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
    return strip_of("mean of the training scans", np.where(inside, target.mean_image, 0), inside, (0, WHITE))


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
        strips=[strip_of(label, image, shown, (0, WHITE)) for label, image in zip(labels, images, strict=True)],
    )
