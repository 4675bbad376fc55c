"""The pictures of the README and the concept pages, made by the program from the included demo scan and target.

    python benchmarks/pictures.py docs/pictures --example ds002748/sub-51/anat/sub-51_T1w.nii.gz

The example is a scan of the target scanner (ds002748, CC0); no other head is shown. The demo head is much like the
target's already, so three pictures show it through a simulated scanner (gamma 1.5; the README's with an uneven coil,
30 %, on top). Three to six minutes.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import nibabel as nib
import numpy as np
from matplotlib import pyplot as plt

from blindharmony.api import harmonize
from blindharmony.cli.demo import demo_scan
from blindharmony.harmonization.summary import summarize
from blindharmony.io.volume import read_volume
from blindharmony.models.file import load_target
from blindharmony.quality.typicality import reduced, typicality
from blindharmony.result import HarmonizeResult
from blindharmony.sampling import drawn_heads
from blindharmony_benchmark.simulation.simulate import simulate

mpl.use("Agg")
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110})
BLUE, ORANGE, GREY = "#2266aa", "#cc6622", "#888888"
LEVEL_MM = 62  # below the top of the brain: the lateral ventricles


def axial(image: np.ndarray) -> np.ndarray:
    """The slice two thirds up, front at the top."""
    return np.rot90(image[:, :, int(0.55 * image.shape[2])])


def show(axes: plt.Axes, image: np.ndarray, title: str, top: float) -> None:
    axes.imshow(axial(image), cmap="gray", vmin=0, vmax=top, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.axis("off")


def save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight", pil_kwargs={"quality": 88})
    plt.close(figure)
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


def opening(result: HarmonizeResult, example: Path, folder: Path) -> None:
    """The README's picture: a brain through another scanner, harmonized, and a scan of the target scanner."""
    mask = result.mask.reshape(result.source.shape)
    prepared = harmonize(example, result.target).prepared.scan  # without its bias field
    shown = (
        ("another scanner", np.where(mask, result.source.data.reshape(mask.shape), 0), result.source),
        ("harmonized", np.where(mask, result.data.reshape(mask.shape), 0), result.source),
        ("a scan of the target scanner", np.where(prepared.inside(), prepared.data, 0), prepared),
    )
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 3.7), facecolor="black", layout="constrained")
    for place, (title, brain, volume) in zip(axes, shown, strict=True):
        upright = nib.as_closest_canonical(nib.Nifti1Image(brain.astype(np.float32), volume.affine))
        image = upright.get_fdata(dtype=np.float32)
        levels = np.flatnonzero((image > 0).any((0, 1)))
        image = image[:, :, int(levels[-1] - LEVEL_MM / upright.header.get_zooms()[2])]
        rows, columns = np.nonzero(image > 0)
        cut = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        across, along = upright.header.get_zooms()[:2]
        place.imshow(
            np.rot90(cut), cmap="gray", vmin=0, vmax=np.quantile(brain[brain > 0], 0.998), aspect=along / across
        )
        place.set_title(title, color="white", fontsize=12)
        place.axis("off")
    save(figure, folder / "opening.jpg")


def blind(result: HarmonizeResult, folder: Path) -> None:
    """A head of another scanner, before and after, and its intensities among the target's people."""
    image, inside = result.source_image, result.prepared.scan.inside()
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.9), width_ratios=(1, 1, 1.5), layout="constrained")
    show(axes[0], np.where(inside, image, 0), "through another (simulated) scanner", 1.6)
    show(axes[1], result.estimate.image, "harmonized", 1.6)
    target = result.target
    ranks = 100 * target.levels
    axes[2].fill_between(ranks, *np.quantile(target.quantiles, (0, 1), 0), color=GREY, alpha=0.35, lw=0)
    for values, colour, name in ((image, ORANGE, "before"), (result.estimate.image, BLUE, "after")):
        axes[2].plot(ranks, summarize(values, inside, target).quantiles, color=colour, label=name)
    axes[2].plot([], [], color=GREY, lw=6, alpha=0.5, label="the target's people")
    axes[2].set(xlabel="brain voxels, darkest to brightest (%)", ylabel="intensity")
    axes[2].legend(frameon=False)
    save(figure, folder / "concept-blind.jpg")


def flow(result: HarmonizeResult, folder: Path) -> None:
    """One head at each resolution of the pyramid, and heads that the flow makes up."""
    target, inside = result.target, result.prepared.scan.inside()
    figure, axes = plt.subplots(2, 4, figsize=(8.4, 5.2))
    for k, place in enumerate(axes[0]):
        image, _ = reduced(result.estimate.image, inside, k + 1)
        show(place, image[0, 0].numpy(), f"{2 ** (k + 1)} mm", 1.6)
    axes[0, 0].set_title("this head at 2 mm", fontsize=9)
    show(axes[1, 0], np.where(target.coverage > 0.5, target.mean_image, 0), "mean of the target's scans", 1.6)
    heads = drawn_heads(target, temperature=0.8, number=3, seed=1)
    for place, head in zip(axes[1, 1:], heads, strict=True):
        show(place, head, "made up by the flow", 1.6)
    save(figure, folder / "concept-flow.jpg")


def scanner(result: HarmonizeResult, folder: Path) -> None:
    """What histogram matching and the person model make of the same ranks, and the curve that follows."""
    target = result.target
    person = target.person
    assert person is not None
    own, predicted = person.curves[person.themselves], person.left_out()
    far = int(np.argmax(((own - own.mean(0)) ** 2).mean(1)))
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3), layout="constrained")
    ranks = 100 * target.levels
    mean = own.mean(0)
    axes[0].plot(ranks, 100 * (own - mean).T, color=GREY, lw=0.5, alpha=0.7)
    axes[0].axhline(0, color=ORANGE, label="the mean person (matching)")
    axes[0].plot(ranks, 100 * (own[far] - mean), color="black", label="one of them, as scanned")
    axes[0].plot(ranks, 100 * (predicted[far] - mean), color=BLUE, ls="--", label="told from the order of intensities")
    axes[0].set(xlabel="rank of intensity (%)", ylabel="difference from the mean (%)", xlim=(0, 98))
    axes[0].set_title("people differ on one scanner", fontsize=9)
    inside = result.prepared.scan.inside()
    before, after = result.source_image[inside], result.estimate.image[inside]
    edges = np.quantile(before, np.linspace(0.002, 0.998, 60))
    x = (edges[1:] + edges[:-1]) / 2
    parts = [after[(before >= low) & (before < high)] for low, high in pairwise(edges)]
    low, middle, high = np.array([np.quantile(part, (0.1, 0.5, 0.9)) for part in parts]).T
    axes[1].fill_between(x, low, high, color=BLUE, alpha=0.2, lw=0)
    axes[1].plot(x, middle, color=BLUE)
    axes[1].plot(x, x, color=GREY, lw=0.8, ls=":")
    axes[1].set(xlabel="intensity in the scan", ylabel="intensity on the target")
    axes[1].set_title("what each intensity of the simulated scanner became", fontsize=9)
    axes[0].set_ylim(-12, 12)
    axes[0].legend(frameon=False, fontsize=8, loc="upper right")
    save(figure, folder / "concept-scanner.jpg")


def trust(result: HarmonizeResult, folder: Path) -> None:
    """The same head spoiled in known ways, and how the flow takes it, level by level."""
    image, inside = result.estimate.image, result.prepared.scan.inside()
    spoiled = {"harmonized": image}
    for domain in ("noise", "blur", "gamma1.5"):
        spoiled[domain] = simulate(image, inside, (1, 1, 1), domain).image
    spoiled["inverted"] = np.where(inside, np.clip(1.6 - image, 0.01, None), 0).astype(np.float32)
    figure, axes = plt.subplots(2, len(spoiled), figsize=(8.4, 3.8), height_ratios=(1.6, 1))
    for k, (name, changed) in enumerate(spoiled.items()):
        show(axes[0, k], changed, name, 1.6)
        found = typicality(changed, inside, result.target)
        assert found is not None
        z_scores = [score.z for score in found.levels]
        high = np.clip(z_scores, -6, 6)
        colours = [BLUE if abs(z) < 3 else ORANGE for z in z_scores]
        axes[1, k].bar(range(len(high)), high, color=colours)
        axes[1, k].axhspan(-2, 2, color=GREY, alpha=0.25, lw=0)
        axes[1, k].set(ylim=(-6.2, 6.2), xticks=range(len(high)), xticklabels=["2", "4", "8", "16", "32"])
        if k:
            axes[1, k].set_yticks([])
    axes[1, 0].set_ylabel("surprise (sd)")
    figure.supxlabel("level of detail (mm), finest first", fontsize=9, y=-0.02)
    save(figure, folder / "concept-trust.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--example", type=Path, required=True, help="a scan of the target scanner, for the README")
    arguments = parser.parse_args()
    folder = arguments.folder
    target = load_target("ds002748")
    scan = read_volume(demo_scan())
    result = harmonize(scan, target)
    other = simulate(scan.data, result.mask.reshape(scan.shape), scan.spacing.tolist(), "gamma1.5").image
    bent = harmonize(nib.Nifti1Image(other, scan.affine), target)
    uneven = simulate(other, result.mask.reshape(scan.shape), scan.spacing.tolist(), "bias").image
    opening(harmonize(nib.Nifti1Image(uneven, scan.affine), target), arguments.example, folder)
    print(f"correlation of the two results {np.corrcoef(bent.data[bent.mask], result.data[bent.mask])[0, 1]:.4f}")
    blind(bent, folder)
    flow(result, folder)
    scanner(bent, folder)
    trust(result, folder)


if __name__ == "__main__":
    main()
