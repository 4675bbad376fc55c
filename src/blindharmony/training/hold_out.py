"""Which scans teach, and which are held out."""

from __future__ import annotations

from pathlib import Path

from blindharmony.errors import UsageError
from blindharmony.image import entities

_LEAST, _LEAST_PEOPLE = 5, 3


def hold_out(scans: list[Path], given: list[Path]) -> tuple[list[Path], list[Path]]:
    """Training and held-out scans.

    Example:
        >>> training, unseen = hold_out([Path(f"{i}.nii") for i in range(10)], [])
        >>> [p.name for p in unseen]
        ['4.nii', '9.nii']

    All scans of a person are held out, or none:

        >>> training, unseen = hold_out([Path(f"sub-{i}_ses-{s}_T1w.nii") for i in range(5) for s in "12"], [])
        >>> [p.name for p in unseen]
        ['sub-4_ses-1_T1w.nii', 'sub-4_ses-2_T1w.nii']

    The last one where there are fewer than five people:

        >>> training, unseen = hold_out([Path(f"sub-{i}_ses-{s}_T1w.nii") for i in range(3) for s in "12"], [])
        >>> [p.name for p in unseen]
        ['sub-2_ses-1_T1w.nii', 'sub-2_ses-2_T1w.nii']

    Raises:
        UsageError: If there are too few, or a person is among both.
    """
    person = {p.resolve(): person_of(p) for p in (*scans, *given)}
    people = list(dict.fromkeys(person[p.resolve()] for p in scans))
    several = {p.resolve() for p in (*scans, *given)}
    chosen = {p.resolve() for p in given} or {
        p for p, who in person.items() if who in (people[4::5][:4] or people[-1:])
    }
    if len(several) >= _LEAST and len(set(person.values())) < _LEAST_PEOPLE:
        raise UsageError(
            f"{len(several)} scans of {len(set(person.values()))} people are too few people to learn a scanner from",
            remedy=f"give scans of {_LEAST_PEOPLE} at least; 20 are a normal number",
        )
    if len(several) < _LEAST or len(several - chosen) < _LEAST - 1:
        raise UsageError(
            f"{len(several)} scans, {len(several - chosen)} of them to learn from, are too few to learn a scanner from",
            remedy=f"give at least {_LEAST}, {_LEAST - 1} of them not held out; 20 are a normal number",
        )
    training = [p for p in scans if p.resolve() not in chosen]
    both = {person[p.resolve()] for p in training} & {person[p] for p in chosen}
    if both:
        raise UsageError(
            f"sub-{min(both)} is among the scans to learn from and among those held out",
            remedy="hold out all scans of a person, or none",
        )
    return training, given or [p for p in scans if p.resolve() in chosen]


def person_of(scan: Path) -> str:
    """Whose scan a file is: what its name says after ``sub-``, or a person of its own.

    Example:
        >>> person_of(Path("sub-07_ses-2_T1w.nii.gz"))
        '07'
    """
    return entities(scan).get("sub") or str(scan.resolve())
