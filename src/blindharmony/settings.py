r"""Every number and choice that decides a harmonization or a training, in one model each.

:class:`HarmonizeSettings` is what :func:`~blindharmony.api.harmonize` takes as keyword arguments, what the command
line's options are made from, what a sidecar records and what a study's fingerprint holds. A number that a trained
model was learnt with (the recipe of preparation, the rank features of its people) belongs to the model instead and
stands beside the code that learns it. :class:`TrainSettings` is the same for
:func:`~blindharmony.training.target.train`, and stands in the model's description.

The module needs no numpy and no torch, so that a typing error on the command line is answered at once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_pascal

from blindharmony.errors import UsageError

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
#: The included methods; a program may register its own.
METHODS: tuple[str, ...] = tuple(ABOUT)


def _in_order(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"{pair[0]:g} is more than {pair[1]:g}; the lower number comes first")
    return pair


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Range = Annotated[tuple[Positive, Positive], AfterValidator(_in_order)]
Shares = Annotated[tuple[Share, Share], AfterValidator(_in_order)]


class SettingsGroup(BaseModel):
    """Named numbers with their units and reasons; unknown names and values that are no numbers are refused.

    Example:
        >>> CurveSettings().differences(), CurveSettings(degree=1).differences()
        ({}, {'degree': 1})
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, alias_generator=to_pascal, validate_by_name=True
    )

    @classmethod
    def named(cls, alias: str) -> str:
        """The field that has this name in a sidecar; the name itself if there is none.

        Example:
            >>> HarmonizeSettings.named("BiasAgain")
            'bias_again'
        """
        return next((name for name, field in cls.model_fields.items() if field.alias == alias), alias)

    def differences(self) -> dict[str, Any]:
        """The values that are not the defaults, by field names."""
        return self.model_dump(mode="json", exclude_defaults=True)


class CurveSettings(SettingsGroup):
    """The intensity curve: how smooth it is, how it ends, and when it is doubted."""

    least_voxels: int = Field(
        default=10_000,
        ge=1,
        description="Brain voxels that must lie where the template has brain; fewer is a failed scan.",
    )
    degree: int = Field(
        default=2,
        ge=1,
        le=8,
        description="Degree of the polynomial in logarithms: 2 holds a gain, a gamma and saturation.",
    )
    believed: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="Distance from the polynomial (usual errors) at which the curve itself is kept; at one error less "
        "the polynomial alone is.",
    )
    darkest: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=1e-3,
        description="Share of the brightest intensity below which there is only rounding; nothing is fitted there.",
    )
    fewest: int = Field(default=16, ge=10, description="Fewest different intensities to which a polynomial is fitted.")
    dark_fold: float = Field(
        default=2.0,
        gt=1,
        le=100,
        description="Multiple of the darkest intensity up to which the power of the dark end is measured.",
    )
    dark_powers: Range = Field(
        default=(0.25, 4.0),
        description="Lowest and highest power with which the curve goes on to zero below its darkest knot.",
    )
    dark_knots: int = Field(
        default=24, ge=2, le=10_000, description="Knots of that dark end; more of them change only the last digits."
    )
    evidence: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="Error bars that a curve must be away from changing nothing before any of it is used; 0 always "
        "uses all of it.",
    )
    rounds: int = Field(
        default=8,
        ge=1,
        le=1000,
        description="Iterations of the fit to several scans, curve and gains in turn; it settles after five.",
    )
    other_scanner: Positive = Field(
        default=4.0,
        description="Distance (usual errors) between a scan's own curve and its scanner's beyond which the scan was "
        "hardly made there.",
    )
    strange: float = Field(
        default=0.8,
        ge=0,
        le=1000,
        description="What the ranks leave open about a head (1: as little is known as without them) above which the "
        "user is warned.",
    )


class BiasAgainSettings(SettingsGroup):
    """The bias field, estimated again in the target's contrast."""

    rounds: int = Field(
        default=2, ge=0, le=8, description="How often a field of N4 is estimated again; 0 keeps the first field."
    )
    entropy_rounds: int = Field(
        default=0,
        ge=0,
        le=8,
        description="The same of a field of least entropy, which hardly takes contrast for shading.",
    )
    sure: float = Field(
        default=2.0,
        ge=0,
        description="Error bars that the first curve must differ from no change before it is used for the contrast.",
    )
    ranks: Shares = Field(
        default=(0.02, 0.995), description="Ranks of the brain's intensities between which the polynomial is fitted."
    )
    points: int = Field(
        default=200, ge=10, le=100_000, description="Ranks at which it is fitted; every voxel counts the same."
    )
    degree: int = Field(default=2, ge=1, le=8, description="Degree of the polynomial in logarithms.")
    believed: float = Field(
        default=1.0,
        ge=0,
        description="Usual errors up to which only the polynomial is used; one error more, only the curve.",
    )
    darkest: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=1e-3,
        description="Share of the brightest intensity below which nothing is fitted; also the curve's least value.",
    )
    flattest: float = Field(
        default=0.1,
        ge=0,
        description="Least slope in logarithms beyond the fitted range, so that dark and bright stay apart.",
    )
    reach: Range = Field(
        default=(1e-4, 4.0),
        description="Prepared intensities (brain's root mean square = 1) between which the curve has knots.",
    )
    knots: int = Field(default=600, ge=10, le=100_000, description="Knots of the curve, evenly spaced in logarithms.")

    def rounds_after(self, bias: str) -> int:
        """How often a field is estimated again that this method of the recipe (``PrepRecipe.bias``) found first.

        Example:
            >>> BiasAgainSettings().rounds_after("n4-itk"), BiasAgainSettings().rounds_after("entropy")
            (2, 0)
        """
        return self.entropy_rounds if bias == "entropy" else self.rounds


class PersonSettings(SettingsGroup):
    """The Gaussian process that says which of the target's people a scan shows."""

    length: Positive = Field(default=2.0, description="Length scale, spreads of the features among the target's heads.")
    strength: Positive = Field(
        default=20.0, description="Variance of the prior, noise variances per squared length scale."
    )
    contrast_length: Positive = Field(
        default=4.0, description="Length scale in models that were taught through other tissue contrasts."
    )
    contrast_strength: Positive = Field(default=3.0, description="Variance of the prior in those models.")
    shared: Share = Field(default=0.5, description="Share of the noise that all rows of one person have in common.")
    common_error: Share = Field(
        default=0.01,
        description="Share of the variance of what features say of heads that a scanner does to all its scans.",
    )
    other_version: Share = Field(
        default=0.7,
        description="What a row of another version (noisy, blurred) counts; 1 is as much as one of the same.",
    )
    as_it_is: float = Field(
        default=4.0,
        description="Prior log-odds (nats) that a scan is as the target's are, not a noisy or blurred version.",
    )
    shrinkage: Share = Field(
        default=0.1,
        description="Share by which the entries of the textures' covariance beside its diagonal are shrunk.",
    )


class RefinementSettings(SettingsGroup):
    """Noise and blur taken out after the curve, and how much of it the scan allows."""

    least_correlation: float = Field(
        default=0.9, ge=-1, le=1, description="Lowest correlation of the result with the curve's."
    )
    most_edges: float = Field(
        default=1.75,
        ge=0,
        description="Most edges where the source is flat, as a multiple of those that were there before.",
    )
    flat_quantile: Share = Field(default=0.3, description="Share of the brain's places that count as flat.")
    shares: tuple[Share, ...] = Field(
        default=(1.0, 0.8, 0.6, 0.4, 0.2),
        min_length=1,
        description="Shares of the change that are tried, the largest first.",
    )
    own_grid_mm: Range = Field(
        default=(0.75, 1.25),
        description="Voxel sizes (mm) of scans that are refined on their own grid; the network was taught at 1 mm.",
    )


class PublishedSettings(SettingsGroup):
    """The published iteration (method ``latent``); the defaults suited two held-out target scans best.

    Example:
        >>> PublishedSettings.published().alpha
        0.001
    """

    iterations: int = Field(default=10, ge=1, description="Iterations; each goes through the flow once.")
    correlation: Literal["ncc", "cosine"] = Field(
        default="ncc",
        description="Centered (ncc, as in the paper) or not (cosine, as in the program), inside the brain.",
    )
    beta1: float = Field(
        default=300.0,
        ge=0,
        description="Weight of the correlation; where it would overshoot, the slice's ‖x‖² takes its place.",
    )
    beta2: float = Field(default=0.001, ge=0, description="Weight of the penalty on edges where the source is flat.")
    alpha: float = Field(default=0.001, ge=0, lt=1, description="Share of the latent that each iteration takes away.")
    flat_quantile: Share = Field(default=0.3, description="Share of places that count as flat.")
    flat_in: Literal["brain", "slice"] = Field(
        default="brain",
        description="Whether that is of the brain or, as published, of the slice (then usually no place counts).",
    )
    dark_share: Share = Field(
        default=0.05,
        description="Share of the brightest value below which nothing counts as flat, as published; for 'slice'.",
    )
    scale: Literal["volume", "slice"] = Field(
        default="volume",
        description="Whether 1.0 is one intensity for the volume or, as published, each mean slice's brightest.",
    )
    flow_identity: bool = Field(default=False, description="Ablation: put the identity in place of the flow.")
    largest: Positive = Field(
        default=100.0, description="Value of a slice beyond which its iteration counts as failed, as published."
    )
    batch: int = Field(
        default=16, ge=1, description="Slices computed together; it changes only the dequantisation noise."
    )
    curve_bins: int = Field(
        default=200, ge=2, description="Bins of the intensity curve that carries the change to the scan's own voxels."
    )

    @classmethod
    def published(cls, *, flow_identity: bool = False) -> PublishedSettings:
        """Return the settings of the published program, second version (August 2023)."""
        numbers = {"iterations": 10, "beta1": 1000.0, "beta2": 0.001, "alpha": 0.001, "flat_quantile": 0.3}
        words = {"correlation": "cosine", "flat_in": "slice", "scale": "slice"}
        return cls.model_validate({**numbers, **words, "flow_identity": flow_identity})


class CheckSettings(SettingsGroup):
    """Limits of the checks: what is normal, to be looked at, or not to be used.

    Example:
        >>> CheckSettings(least_overlap=0.95).differences()
        {'least_overlap': 0.95}
    """

    rare: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.02, description="Share of target scans that are called rare: one in fifty."
    )
    rare_excess: Positive = Field(
        default=4.0, description="Spreads of the known scans that are called rare when fewer than two are known."
    )
    least_spread: Positive = Field(
        default=0.15,
        description="Bits a voxel; a smaller spread of a handful of held-out scans is a guess and not believed.",
    )
    unexplained_excess: Positive = Field(
        default=8.0,
        description="Spreads of the held-out scans beyond which an improbable result is poor, not to be looked at.",
    )
    least_distance_spread: Share = Field(
        default=0.3,
        description="Smallest spread of the target scans' intensity distances that is believed, as a share of their "
        "mean; the included target's is 0.32.",
    )
    least_tissue_spread: Share = Field(
        default=0.01,
        description="Smallest spread of the target scans' tissue intensities that is believed, as a share of their "
        "mean; the included target's is 0.015 (white matter) to 0.07 (fluid).",
    )
    farther_spreads: Positive = Field(
        default=1.0,
        description="Spreads of the target's own scans within which a result is at the target; beyond that it may not "
        "be farther from their mean than the scan was.",
    )
    not_needed_excess: float = Field(
        default=1.0,
        description="Spreads of the held-out scans up to which a scan looks like the target's to begin with.",
    )
    least_overlap: Share = Field(
        default=0.90, description="Dice overlap with the template's brain below which one must look."
    )
    coarse_mm: Positive = Field(default=2.2, description="Thickness (mm) of slices above which detail is missing.")
    brain_ml: Range = Field(
        default=(850.0, 2100.0), description="Volume (ml) of an adult's brain mask; others must be looked at."
    )
    mask_missed: Shares = Field(
        default=(0.03, 0.12),
        description="Share of the brain all target scans have that a mask may miss before it is to be looked at, or "
        "wrong. Good masks miss up to 1.5 %, a missing cerebellum is 7 %, half a head 52 %.",
    )
    mask_outside: Shares = Field(
        default=(0.01, 0.08),
        description="Share of a mask that may lie where no target scan has brain before it is to be looked at, or "
        "wrong. Good masks have 0.1 %, one that is 6 mm too thick 2 %, a whole head 40 to 50 %.",
    )
    least_order: Share = Field(
        default=0.25,
        description="Rank correlation with the target's mean head below which tissues are not in its order. "
        "T1-weighted scans have 0.52 to 0.71, noise 0, an inverted scan the same with a minus sign.",
    )
    halves_alike: Share = Field(
        default=0.95,
        description="Correlation of a head with its mirror image above which one half is a copy of the other. Scans "
        "have 0.38 to 0.54, blurred ones up to 0.82.",
    )


class Settings(SettingsGroup):
    """Choices first, then groups of numbers: everything that decides a result, with a digest."""

    @classmethod
    def number_groups(cls) -> tuple[str, ...]:
        """Fields that are groups of numbers, for ``--set``.

        Example:
            >>> HarmonizeSettings.number_groups()[:2], HarmonizeSettings.choices()[:2]
            (('curve', 'bias_again'), ('method', 'refine'))
        """
        return tuple(name for name, field in cls.model_fields.items() if isinstance(field.default, SettingsGroup))

    @classmethod
    def choices(cls) -> tuple[str, ...]:
        """The other fields, which are options of the command line."""
        return tuple(name for name in cls.model_fields if name not in cls.number_groups())

    def updated(self, **changes: Any) -> Self:
        """These settings with changes by field name; a group may be given as a mapping of some of its numbers.

        Raises:
            UsageError: If a name is unknown or a value makes no sense.

        Example:
            >>> HarmonizeSettings().updated(methd="match")
            Traceback (most recent call last):
            blindharmony.errors.UsageError: settings: methd is unknown; did you mean method?
        """
        values = self.model_dump()
        for key, change in changes.items():
            name = self.named(key)
            group, new = getattr(self, name, None), change.model_dump() if isinstance(change, BaseModel) else change
            if isinstance(group, SettingsGroup) and isinstance(new, Mapping):
                new = {**values[name], **{group.named(word): value for word, value in new.items()}}
            values[name] = new
        try:
            return type(self).model_validate(values)
        except ValidationError as error:
            raise _refused(error, type(self)) from None

    def groups(self, *, by_alias: bool = False) -> dict[str, dict[str, Any]]:
        """The numbers that are not the defaults, group by group."""
        numbers = {name: getattr(self, name) for name in type(self).model_fields}
        changed = {
            name: group.model_dump(mode="json", exclude_defaults=True, by_alias=by_alias)
            for name, group in numbers.items()
            if isinstance(group, SettingsGroup)
        }
        return {to_pascal(name) if by_alias else name: group for name, group in changed.items() if group}

    def digest_of(self, names: Iterable[str]) -> str:
        """SHA-256 (12 digits) of some of the fields, written as JSON with sorted keys."""
        content = self.model_dump(mode="json", include=set(names))
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


class HarmonizeSettings(Settings):
    """What a scan is harmonized with: the choices first, then groups of numbers.

    A choice is an option of the command line and a keyword argument of the call (``--keep-bias``,
    ``harmonize(..., keep_bias=True)``); a number of a group is ``--set curve.believed=1``, or a group of its own in the
    call. Settings never change: :meth:`updated` gives new ones.

    Example:
        >>> settings = HarmonizeSettings(seed=3).updated(keep_bias=True, curve={"degree": 1})
        >>> settings.differences()
        {'keep_bias': True, 'seed': 3, 'curve': {'degree': 1}}
        >>> settings.digest == HarmonizeSettings().digest
        False
    """

    method: str = Field(
        default="curve",
        min_length=1,
        description="curve (default), match (histogram matching only), latent (published iteration), latent-published",
    )
    refine: bool = Field(default=True, description="Take out noise and blur after the intensity curve.")
    keep_bias: bool = Field(default=False, description="Leave the scan's own bias field in the result.")
    on_harm: Literal["scan", "result"] = Field(
        default="scan",
        description="What to return where harmonizing does not bring a scan nearer to the target: the scan as it was, "
        "bias field taken out (scan), or the result all the same (result).",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Equal seeds give equal files.")
    device: str = Field(default="cpu", min_length=1, description="Where to compute: auto, cpu, cuda or cuda:N.")
    mask_command: str | None = Field(
        default=None, description="Brain extractor to call, with {input} and {output} in it."
    )
    curve: CurveSettings = Field(default=CurveSettings(), description="The intensity curve.")
    bias_again: BiasAgainSettings = Field(
        default=BiasAgainSettings(), description="The bias field in the target's contrast."
    )
    person: PersonSettings = Field(default=PersonSettings(), description="The person seen in the scan.")
    refinement: RefinementSettings = Field(default=RefinementSettings(), description="Noise and blur.")
    published: PublishedSettings = Field(default=PublishedSettings(), description="The published iteration.")
    checks: CheckSettings = Field(default=CheckSettings(), description="Limits of the verdict.")

    @model_validator(mode="after")
    def _released_numbers_are_fixed(self) -> Self:
        if self.method == "latent-published" and self.published != PublishedSettings():
            raise ValueError("the method latent-published has fixed numbers; use latent to choose them")
        return self

    @property
    def iteration(self) -> PublishedSettings:
        """Numbers of the published iteration: those of the released program for ``latent-published``."""
        return PublishedSettings.published() if self.method == "latent-published" else self.published

    def looks_after(self, bias: str) -> int:
        """How often the scans of a scanner are looked at after the first time, at most, by the recipe's bias field.

        Example:
            >>> HarmonizeSettings().looks_after("n4-itk"), HarmonizeSettings(on_harm="result").looks_after("entropy")
            (3, 0)
        """
        return self.bias_again.rounds_after(bias) + (self.on_harm == "scan")

    @property
    def digest(self) -> str:
        """SHA-256 (12 digits) of all that decides a result: everything but where it is computed."""
        return self.digest_of(name for name in type(self).model_fields if name != "device")


def _refused(error: ValidationError, model: type[BaseModel]) -> UsageError:
    """One line about the first of the values that were refused."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        said = first["msg"].removeprefix("Value error, ")
        return UsageError(f"settings: {where}: {said}" if where else f"settings: {said}", remedy="correct this setting")
    fields = model.model_fields
    group = fields.get(str(first["loc"][0])) if len(first["loc"]) > 1 else None
    known = type(group.default).model_fields if group else fields
    near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
    return UsageError(f"settings: {where} is unknown", remedy=remedy)


# The training of a target model.

AboveZero = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=4, le=256, multiple_of=4)]


class OptimizerSettings(SettingsGroup):
    """How a network is trained by :func:`~blindharmony.training.loop.fit`; each part has defaults of its own."""

    rate: Positive = Field(default=1e-3, description="Highest learning rate of AdamW.")
    lowest_rate: float = Field(default=0.0, ge=0, description="Learning rate at the end of the cosine.")
    betas: tuple[Share, Share] = Field(
        default=(0.9, 0.999), description="Shares of Adam's running moments that a step keeps."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Of AdamW, per step and learning rate.")
    warmup_steps: AboveZero = Field(default=1, description="Steps in which the learning rate rises from zero.")
    warmup_share: Share = Field(
        default=0.0, description="Share of a short training that the rise may take at most; 0: no limit."
    )
    clip: float = Field(
        default=0.0, ge=0, description="Largest norm of a gradient, longer ones are shortened; 0: none is."
    )
    average: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="What a step keeps of the weights' running mean; 0: the weights themselves count."
    )
    looks: int = Field(
        default=12, ge=0, description="How often the weights are judged on held-out data; they always are at the end."
    )
    look_every: AboveZero | None = Field(
        default=None, description="Steps between two such judgements, in place of their number."
    )


class FlowFitSettings(OptimizerSettings):
    """The flow of whole heads: each level of the pyramid by itself, coarsest first."""

    rate: Positive = Field(default=2e-3, description="Highest learning rate of AdamW.")
    weight_decay: float = Field(default=1e-4, ge=0, description="Of AdamW, per step and learning rate.")
    warmup_steps: AboveZero = Field(default=20, description="Steps in which the learning rate rises from zero.")
    clip: float = Field(default=1.0, ge=0, description="Largest norm of a gradient, longer ones are shortened.")
    time_share: Share = Field(default=2 / 3, description="Of the minutes; the restorer gets the others.")
    level_shares: tuple[Positive, ...] = Field(
        default=(0.02, 0.04, 0.10, 0.24, 0.60),
        description="Of the flow's time: the coarsest image, then details at 16, 8, 4 and 2 mm. The last are 7/8 of "
        "all numbers.",
    )
    patch: AboveZero = Field(
        default=20, description="Side (places) of the random cubes that the finest level is trained on."
    )
    patch_brain: Share = Field(default=0.2, description="Least share of brain in such a cube.")
    calibration_gain: Positive = Field(default=0.12, description="Largest logarithm of a gain that calibration tries.")
    calibration_gains: int = Field(
        default=7, ge=3, description="Gains tried, evenly spaced; a parabola goes through them."
    )
    calibration_rounds: AboveZero = Field(
        default=2,
        description="Turns of the calibration: the spread moves the best gain a little, and the gain the spread.",
    )
    honesty_change: Positive = Field(
        default=0.1, description="Largest change of intensity that the model card reports on."
    )
    honesty_changes: int = Field(default=5, ge=3, description="Changes tried, evenly spaced.")
    ranks: int = Field(default=512, ge=16, description="Ranks at which the model keeps quantile curves.")


class RestorerFitSettings(OptimizerSettings):
    """The restorer, which takes out noise and blur."""

    rate: Positive = Field(default=6.06e-4, description="Highest learning rate of AdamW.")
    lowest_rate: float = Field(default=6e-6, ge=0, description="Learning rate at the end of the cosine.")
    betas: tuple[Share, Share] = Field(
        default=(0.9, 0.98), description="Shares of Adam's running moments that a step keeps."
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="Of AdamW, per step and learning rate.")
    warmup_steps: AboveZero = Field(default=200, description="Steps in which the learning rate rises from zero.")
    clip: float = Field(default=0.5, ge=0, description="Largest norm of a gradient, longer ones are shortened.")
    average: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.999,
        description="What a step keeps of the weights' running mean, which is steadier than the last weights.",
    )
    looks: int = Field(default=6, ge=0, description="How often held-out cubes judge the weights.")
    judged: AboveZero = Field(default=16, description="Held-out cubes that choose the weights; 0.2 s each on a core.")
    batch: AboveZero = Field(default=2, description="Cubes a step.")
    patch: Side = Field(default=48, description="Side (voxels of about 1 mm) of a cube.")
    rim: int = Field(default=8, ge=0, description="Voxels around a cube that blur reaches, cut away after it.")
    patch_brain: Share = Field(
        default=0.4, description="Least share of brain in a cube with its rim, where 50 tries find it."
    )
    error_heads: AboveZero = Field(
        default=8,
        description="Heads through random scanners that tell how far single voxels are off; 20 s each on a core.",
    )
    epsilon: Positive = Field(
        default=2e-4,
        description="Mean square error (flow units) of a clean scan after matching; it keeps scans that were hardly "
        "changed from asking for perfection.",
    )
    heads: AboveZero = Field(
        default=40, description="Most heads: each takes 50 MB of disk, and more teach a network of this size little."
    )


class SliceFitSettings(OptimizerSettings):
    """The flow of slices that the published method needs."""

    rate: Positive = Field(default=5e-4, description="Highest learning rate of AdamW.")
    clip: float = Field(default=20.0, ge=0, description="Largest norm of a gradient; a usual one has 1 to 5.")
    look_every: AboveZero | None = Field(default=100, description="Steps between two judgements on held-out slices.")
    batch: AboveZero = Field(default=8, description="Slices a step; 256 as published.")
    grey_levels: int = Field(default=4096, ge=2, description="Levels that a slice is spread over by noise (12 bits).")
    judged: AboveZero = Field(default=48, description="Held-out slices that choose the weights.")
    heads: AboveZero = Field(
        default=40, description="Most heads: each takes 25 MB, and more slices than theirs are not learned by heart."
    )


class PersonFitSettings(SettingsGroup):
    """The random scanners that the target's heads are shown through to the person model, besides as they are.

    Their contrasts are those of :class:`TissueFitSettings`.
    """

    scanners: int = Field(default=4, ge=0, description="How many each head is shown through.")
    often: Share = Field(default=0.7, description="Share of them that blur; as many are noisy.")
    blur_mm: Range = Field(default=(0.1, 2.5), description="Full width at half maximum of a blur along each axis.")
    thick: Share = Field(default=0.15, description="Share of them that have thick slices.")
    slice_mm: Annotated[int, Field(ge=2)] = Field(default=3, description="Thickest slices, whole millimeters.")
    noise: Range = Field(default=(0.01, 0.06), description="Noise, shares of white matter, drawn in logarithms.")
    field: float = Field(default=0.05, ge=0, description="Largest spread of the log bias field that preparation left.")
    power_sd: float = Field(default=0.15, ge=0, description="Spread of the logarithm of a display curve's exponent.")


class DeformationSettings(SettingsGroup):
    """How training heads are deformed."""

    linear_sd: float = Field(
        default=0.03, ge=0, description="Standard deviation of each entry of scale, shear and rotation."
    )
    shift_mm: float = Field(default=1.5, ge=0, description="Standard deviation of the translation.")
    bend_mm: float = Field(
        default=0.7, ge=0, description="Standard deviation of the smooth displacement inside a head."
    )
    bend_scale_mm: Positive = Field(default=30.0, description="Distance over which the displacement changes.")
    flip: bool = Field(default=True, description="Whether left and right are swapped every other time.")
    most_images: AboveZero = Field(
        default=600,
        description="Most images, copies included: plenty for this network, so many heads need fewer copies.",
    )


class RandomScannerSettings(SettingsGroup):
    """The random scanners that the restorer learns to undo, wider apart than real ones."""

    often: Share = Field(
        default=0.6, description="Share of the cubes that get blur or thick slices; as many get noise."
    )
    blur_mm: Range = Field(default=(0.5, 3.5), description="Full width at half maximum of a Gaussian blur.")
    axes_sd: float = Field(default=0.25, ge=0, description="Spread of the logarithm of a blur's width between axes.")
    slice_mm: tuple[AboveZero, AboveZero] = Field(default=(2, 4), description="Thickness of slices, whole millimeters.")
    noise: Range = Field(
        default=(0.005, 0.08), description="Rician noise, shares of the brightest tissue, drawn in logarithms."
    )
    brightest: Positive = Field(default=1.5, description="Intensity of the brightest tissue, flow units.")
    other_contrast: Share = Field(
        default=0.5, description="Share of the cubes in another contrast of the tissues, as in TissueFitSettings."
    )
    texture: tuple[float, float] = Field(
        default=(0.8, 1.2), description="What stays of a voxel's difference from its tissues in another contrast."
    )
    bend_gray: float = Field(
        default=0.1, ge=0, description="How far gray matter moves from place to place, shares of gray/white contrast."
    )


class TissueFitSettings(OptimizerSettings):
    """The tissue network, and the random scanners that it learns anatomy through.

    Contrasts are those of the 17 sites of ABIDE (medians of tissues after N4, by MRIQC; nipreps/mriqc-learn), whose
    gray/white ratio goes from 0.58 to 0.85 and whose fluid/white ratio from 0.24 to 0.44 with it, and somewhat beyond.
    """

    rate: Positive = Field(default=1.5e-3, description="Highest learning rate of AdamW.")
    lowest_rate: float = Field(default=1e-4, ge=0, description="Learning rate at the end of the cosine.")
    betas: tuple[Share, Share] = Field(
        default=(0.9, 0.98), description="Shares of Adam's running moments that a step keeps."
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="Of AdamW, per step and learning rate.")
    warmup_steps: AboveZero = Field(default=100, description="Steps in which the learning rate rises from zero.")
    clip: float = Field(default=1.0, ge=0, description="Largest norm of a gradient, longer ones are shortened.")
    average: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.995, description="What a step keeps of the weights' running mean."
    )
    look_every: AboveZero | None = Field(default=200, description="Steps between two judgements on held-out heads.")
    batch: AboveZero = Field(default=1, description="Crops a step.")
    side: Annotated[int, Field(ge=16, le=160, multiple_of=8)] = Field(default=80, description="Side (mm) of a crop.")
    brain: Share = Field(default=0.5, description="Least share of brain in a crop, where 50 tries find it.")
    gray_white: Range = Field(default=(0.5, 0.9), description="Gray/white ratio.")
    fluid_white: Range = Field(default=(0.18, 0.48), description="Mean fluid/white ratio at these gray/white ratios.")
    fluid_sd: float = Field(default=0.06, ge=0, description="Spread of the fluid/white ratio around it.")
    deep: tuple[float, float] = Field(default=(0.0, 0.75), description="Place of deep gray: 0 cortical gray, 1 white.")
    stem: tuple[float, float] = Field(
        default=(-0.1, 0.4), description="Place of the brainstem between white (0) and gray (1)."
    )
    curves: Share = Field(default=0.4, description="Share of the scans that get an increasing curve, anatomy aside.")
    texture: tuple[float, float] = Field(
        default=(0.0, 1.2), description="What stays of a voxel's difference from its tissues."
    )
    bend_gray: float = Field(
        default=0.15, ge=0, description="How far gray matter moves from place to place, shares of gray/white contrast."
    )
    often: Share = Field(default=0.7, description="Share of the scans that are blurred; as many are noisy.")
    blur_mm: Positive = Field(default=3.0, description="Largest full width at half maximum of a blur along an axis.")
    thick: Share = Field(default=0.15, description="Share of the scans in thick slices.")
    slice_mm: Annotated[int, Field(ge=2)] = Field(default=3, description="Thickest slices, whole millimeters.")
    noise: Range = Field(default=(0.01, 0.08), description="Noise, shares of white matter, drawn in logarithms.")
    field: float = Field(default=0.12, ge=0, description="Largest spread of the log bias field that preparation left.")
    no_sulci: Share = Field(default=0.3, description="Share of the scans whose mask leaves out fluid of the sulci.")
    eroded: Share = Field(default=0.15, description="Share of the scans whose mask lost a voxel all around.")
    power_sd: float = Field(default=0.1, ge=0, description="Spread of the logarithm of a display curve's exponent.")
    gain_sd: float = Field(default=0.03, ge=0, description="Spread of the logarithm of the gain's error.")
    linear_sd: float = Field(default=0.05, ge=0, description="Spread of each entry of scale, shear and rotation.")
    shift_mm: float = Field(default=2.0, ge=0, description="Spread of the translation.")
    bend_mm: float = Field(default=1.0, ge=0, description="Spread of the smooth displacement.")
    bend_scale_mm: Positive = Field(default=24.0, description="Distance over which the displacement changes.")


class TrainSettings(Settings):
    """What a target model is trained with: the choices first, then groups of numbers.

    Choices are options of ``blindharmony train`` and keyword arguments of :func:`~blindharmony.training.target.train`.

    Example:
        >>> TrainSettings(steps=300).updated(restorer=False, flow_fit={"rate": 1e-3}).differences()
        {'steps': 300, 'restorer': False, 'flow_fit': {'rate': 0.001}}
    """

    minutes: float = Field(default=30.0, ge=0, description="Time to learn, preparation not counted.")
    steps: AboveZero | None = Field(default=None, description="Steps of every level of the flow instead of a time.")
    restorer_steps: AboveZero | None = Field(
        default=None, description="Steps of the restorer instead of a third of the time."
    )
    restorer: bool = Field(default=True, description="Train a restorer; without one, curves only and no refinement.")
    slice_minutes: float = Field(default=0.0, ge=0, description="Also train the slice flow of the published method.")
    slice_steps: AboveZero | None = Field(default=None, description="Steps of the slice flow instead of a time.")
    copies: int = Field(default=5, ge=0, description="Deformed copies of each head that trains the flow.")
    mask_command: str | None = Field(
        default=None, description="Brain extractor for whole heads, with {input} and {output} in it."
    )
    bias: Literal["n4-itk", "n4", "entropy"] = Field(
        default="entropy",
        description="Bias field of every scan: least entropy, N4 with clean cells, or N4 as ITK has it.",
    )
    suffix: str = Field(default="T1w", min_length=1, description="BIDS suffix of the contrast.")
    batch: AboveZero | None = Field(
        default=None, description="Patches a step; one for each process of torchrun by default."
    )
    precision: Literal["auto", "full", "mixed"] = Field(
        default="auto",
        description="mixed: convolutions in bfloat16, couplings never. auto: mixed on a GPU, full on a CPU.",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Equal seeds give equal models.")
    name: str | None = Field(default=None, description="Name of the model; the file's by default.")
    data: str = Field(default="", description="Where the scans come from, for the model card.")
    licence: str = Field(default="", description="License of the model, for the model card.")
    flow_fit: FlowFitSettings = Field(default=FlowFitSettings(), description="The flow of whole heads.")
    restorer_fit: RestorerFitSettings = Field(default=RestorerFitSettings(), description="The restorer.")
    slice_fit: SliceFitSettings = Field(default=SliceFitSettings(), description="The flow of slices.")
    person_fit: PersonFitSettings = Field(default=PersonFitSettings(), description="The person model.")
    deformation: DeformationSettings = Field(default=DeformationSettings(), description="Deformed copies of heads.")
    random_scanner: RandomScannerSettings = Field(default=RandomScannerSettings(), description="Random scanners.")

    @property
    def digest(self) -> str:
        """SHA-256 (12 digits) of all that decides the numbers of a model: everything but what its card says."""
        return self.digest_of(name for name in type(self).model_fields if name not in ("name", "data", "licence"))
