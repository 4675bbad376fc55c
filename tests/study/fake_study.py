"""A data set of fake scans, and a run over it without MR."""

import json
import math
from pathlib import Path

from fake_work import FAKE

from blindharmony.io.bids import bids_scans
from blindharmony.jobs.engine import SerialEngine
from blindharmony.settings import HarmonizeSettings
from blindharmony.study.groups import by_metadata
from blindharmony.study.ledger import Ledger
from blindharmony.study.run import held, make_plan, run_study
from blindharmony.study.work import StudySettings


def make_study(root: Path, scans: dict[str, str], metadata: dict[str, dict] | None = None) -> Path:
    """A data set: ``sub-01[/ses-1]`` → what its scan's file says."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "study", "BIDSVersion": "1.10.0"}))
    for who, text in scans.items():
        anat = root / who / "anat"
        anat.mkdir(parents=True, exist_ok=True)
        name = who.replace("/", "_")
        (anat / f"{name}_T1w.nii.gz").write_text(text)
        if found := (metadata or {}).get(who):
            (anat / f"{name}_T1w.json").write_text(json.dumps(found))
    return root


def fake_run(
    root: Path,
    out: Path,
    engine=None,
    *,
    seed: int = 0,
    say=None,
    scratch: int = 500,
    lesions=None,
    seconds=math.inf,
    refit=False,
    **which,
):
    """Plan and run with the fake work; what was said goes to ``say``."""
    scans, _ = bids_scans(root, **which)
    engine = engine or SerialEngine()
    lines = [] if say is None else say
    with held(Ledger(out)) as ledger:
        plan = make_plan(by_metadata(scans), ledger, lesions=lesions)
        settings = StudySettings(target="none", digest="d", harmonize=HarmonizeSettings(seed=seed))
        try:
            return run_study(
                plan,
                settings,
                ledger,
                engine,
                pieces=FAKE,
                scratch=scratch,
                seconds=seconds,
                refit=refit,
                say=lambda line, tally, problem=False: lines.append(line) if line else None,
            )
        finally:
            engine.close()
