"""A damaged summary costs a look, not the results of a scanner."""

import numpy as np
import pytest
from fake_study import make_study
from fake_work import FakeFit, FakeHarmonize, FakeLook

from blindharmony.harmonization.summary import ScanSummary
from blindharmony.io.bids import bids_scans
from blindharmony.jobs.engine import Answer, SerialEngine
from blindharmony.settings import HarmonizeSettings
from blindharmony.study.groups import by_metadata
from blindharmony.study.ledger import Ledger
from blindharmony.study.run import Pieces, held, make_plan, run_study
from blindharmony.study.work import FitScanner, StudySettings, keep_summary

SCANNER = {"Manufacturer": "GE", "DeviceSerialNumber": "1"}


class Look(FakeLook):
    def do(self, tell):
        keep_summary(self.file, ScanSummary(np.arange(4.0), np.arange(3.0), np.ones(4), 0.1))
        return Answer()


class Fit(FakeFit):
    def do(self, tell):
        list(FitScanner.read(self))
        return super().do(tell)


@pytest.fixture
def run(tmp_path):
    def once(**options):
        scans, _ = bids_scans(tmp_path / "in")
        with held(Ledger(tmp_path / "out")) as ledger:
            plan = make_plan(by_metadata(scans), ledger)
            settings = StudySettings(target="none", digest="d", harmonize=HarmonizeSettings())
            pieces = Pieces(Look, Fit, FakeHarmonize)
            tally = run_study(plan, settings, ledger, SerialEngine(), pieces=pieces, **options)
        return tally, len(list((tmp_path / "out").rglob("*harmonized*.nii.gz")))

    return once


def test_a_damaged_summary_costs_a_look_and_no_result(run, tmp_path):
    names = [f"sub-0{i}" for i in range(4)]
    make_study(tmp_path / "in", {name: f"ok: {name}" for name in names[:3]}, dict.fromkeys(names, SCANNER))
    assert run()[1] == 3
    make_study(tmp_path / "in", {names[3]: "ok: 3"}, {names[3]: SCANNER})
    summary = min((tmp_path / "out").rglob("round1.*.safetensors"))
    content = bytearray(summary.read_bytes())
    content[-3] ^= 255
    summary.write_bytes(content)
    tally, results = run(refit=True)
    assert results == 3, "what was made before stays"
    assert "its earlier result is kept" in " ".join(tally.failed.values())
    tally, results = run(refit=True)
    assert (results, tally.failed) == (4, {}), "the next run looks at the scan again"
