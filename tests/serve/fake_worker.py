"""A job without MR: milliseconds instead of minutes. What a scan is called says how it behaves.

``slow`` takes until it is killed, ``fail`` gives no result, ``die`` kills itself, ``exit`` ends the process, ``model``
cannot load the target, ``mad`` gives back what is no answer.
"""

import os
import signal
import time
from pathlib import Path

from PIL import Image

from blindharmony.errors import TargetError
from blindharmony.serve.store import Outcome
from blindharmony.serve.worker import JobAnswer, PageJob


class FakeJob(PageJob):
    def do(self, tell):
        if diary := os.environ.get("FAKE_DIARY"):
            with Path(diary).open("a") as file:
                file.write(f"{' '.join(self.labels)} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
        tell("Finding the brain", 0.25)
        print("what libraries print is no answer")
        if any("mad" in label for label in self.labels):
            return {"files": ["../../job.json"]}
        return JobAnswer(outcomes=tuple(self._one(index, label, tell) for index, label in enumerate(self.labels)))

    def _one(self, index, label, tell):
        if "slow" in label:
            self.results.mkdir(exist_ok=True)
            (self.results / "half").write_text("half")
            tell("Harmonizing", 0.5)
            time.sleep(60)
        if "die" in label:
            os.kill(os.getpid(), signal.SIGKILL)
        if "exit" in label:
            os._exit(3)
        if "model" in label:
            raise TargetError("no such target model", remedy="give a model file with --target", path=self.target)
        if "fail" in label:
            return Outcome(reason="no brain was found", remedy="check the scan")
        stem = self.scans[index].name.removesuffix(".gz").removesuffix(".nii")
        self.results.mkdir(exist_ok=True)
        names = [f"{stem}_desc-harmonized{end}" for end in (".nii.gz", ".html", ".viewer.html", ".json")]
        for name in names:
            (self.results / name).write_text(f"<p>{name} of {label}</p>" + 5000 * "x")
        pictures = [f"{stem}_{word}.jpg" for word in ("before", "after")]
        for number, name in enumerate(pictures):
            Image.new("L", (64, 16), 90 + 90 * number).save(self.results / name)
        return Outcome(
            files=names, pictures=pictures, verdict="good", headline="Harmonized.", seconds=1.5, warnings=["<b>w</b>"]
        )
