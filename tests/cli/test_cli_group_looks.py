"""A scan of a group that was not looked at is not left out in silence."""

from pathlib import Path

import numpy as np
import pytest

from blindharmony.cli.groups import Group
from blindharmony.errors import BlindHarmonyError, ErrorCode
from blindharmony.harmonization.summary import ScanSummary
from blindharmony.jobs.engine import Answer, Failure, Outcome
from blindharmony.settings import HarmonizeSettings
from blindharmony.study.work import keep_summary


class Workers:
    """Look at made-up scans; the third one is killed this many times."""

    def __init__(self, target, killed):
        self.target, self.killed, self.tasks = target, killed, []

    def submit(self, task):
        self.tasks.append(task)

    def finished(self):
        while self.tasks:
            task = self.tasks.pop(0)
            index = "abc".index(task.work.scan.stem)
            if index == 2 and self.killed:
                self.killed -= 1
                yield Outcome.of(task, Failure(code=ErrorCode.KILLED, what="was killed", line="killed by signal 9"))
                continue
            seen = self.target.quantiles[index] ** 1.3
            ranks = np.interp((np.arange(1000) + 0.5) / 1000, self.target.levels, seen)
            keep_summary(task.work.summary, ScanSummary(seen, ranks, self.target.quantiles[index], 0.05))
            yield Outcome.of(task, Answer())


def learnt(target, killed):
    scans = [Path(f"{name}.nii") for name in "abc"]
    group = Group("", scans, {}, {}, target, HarmonizeSettings(on_harm="result"), None)
    return group.learnt_by(Workers(target, killed), "ds002748", lambda *_: None)


def test_a_look_that_was_killed_is_taken_again(real_target):
    whole, again = learnt(real_target, 0), learnt(real_target, 1)
    assert (again.scans, again.digest) == (3, whole.digest)


def test_a_look_that_is_killed_twice_ends_the_fit(real_target):
    with pytest.raises(BlindHarmonyError, match=r"c\.nii: was killed"):
        learnt(real_target, 2)
