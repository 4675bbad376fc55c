"""A ``bids`` run of two scans on a file system that fails once, and the law that it has to keep.

Nothing is lost (inputs and earlier results), nothing half-written has a final name, the run ends with a message and an
exit code, and the same command without the fault completes with the bytes of a run that has met none.
"""

import hashlib
import io
import json
import re
import shutil
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import lru_cache, partial
from unittest import mock

from fake_study import make_study
from fake_work import FAKE

import blindharmony.cli.main as command
import blindharmony.models.file
import blindharmony.study.run
from blindharmony.cli.verify import verified
from blindharmony.study.ledger import _stamp
from faults import Faults, content_of

#: What was there before: nothing, results of other settings, or the results that the run is asked for.
BEFORE = ("nothing", "other results", "the same results")


@contextmanager
def quick_commands(*, fake=True):
    """Grammar and target are read once, waits are none, and work is fake if wanted."""
    parser, load = lru_cache(command.parser), lru_cache(blindharmony.models.file.load_target)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(command, "parser", parser))
        stack.enter_context(mock.patch.object(blindharmony.models.file, "load_target", load))
        if fake:
            run = partial(blindharmony.study.run.run_study, pieces=FAKE)
            stack.enter_context(mock.patch.object(blindharmony.study.run, "run_study", run))
            stack.enter_context(mock.patch("fake_work.time.sleep"))
        yield


def fake_data_set(root):
    """Two scans of one scanner, without voxels."""
    same = {"DeviceSerialNumber": "1"}
    return make_study(root, {"sub-01": "ok: 1", "sub-02": "ok: 2"}, {"sub-01": same, "sub-02": same})


class FaultyStudy:
    """Runs of one command over one data set.

    Args:
        study: Two scans.
        folder: For outputs.
        target: Model file.
        before: One of :data:`BEFORE`.
    """

    def __init__(self, study, folder, target, before="nothing"):
        self.study, self.out, self.target = study, folder / "out", target
        self.start = folder / f"start-{BEFORE.index(before)}"
        self.old = {}
        shutil.rmtree(self.start, ignore_errors=True)
        self.start.mkdir()
        self.inputs = content_of(study)
        if before != "nothing":
            self._run(0 if before == "other results" else 1)
            shutil.rmtree(self.start)
            shutil.move(self.out, self.start)
            self.old = self._results(self.start)
        self.again()
        faults = Faults([study, self.out])
        code, said = self._run(1, faults)
        assert code == 0, said
        self.calls, self.new = faults.calls, self._results(self.out)
        self._got_over = set()

    def again(self):
        """The output folder as it was before the run."""
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.start, self.out, copy_function=shutil.copy2)

    def _run(self, seed, faults=None):
        words = ["bids", str(self.study), str(self.out), "participant", "--n-procs", "0", "--seed", str(seed)]
        words += ["--target", str(self.target), "--skip-bids-validation"]
        err, out = io.StringIO(), io.StringIO()
        with redirect_stderr(err), redirect_stdout(out), (faults or Faults([])).active():
            code = command.main(words)
        return code, err.getvalue()

    @staticmethod
    def _results(folder):
        return {k: v for k, v in content_of(folder).items() if not k.startswith(".blindharmony") and v is not None}

    def broken_law(self, at, kind):
        """Run with one fault, and once more without: what the law is broken by, empty if it is kept.

        Returns:
            What happened, the exit code, and the sentences.
        """
        self.again()
        faults = Faults([self.study, self.out], at, kind)
        broken = []
        try:
            code, said = self._run(1, faults)
        except BaseException as error:  # the command line lets nothing out
            code, said = None, repr(error)
            broken.append(f"{type(error).__name__} came out of the command: {error}")
        if code not in (0, 1, 2, 66) or "internal error" in said or "Traceback" in said:
            broken.append(f"exit code {code}: {said.strip().splitlines()[-1:]}")
        if code and "blindharmony: " not in said:
            broken.append(f"exit code {code} without a message: {said}")
        broken += self.harm(code)
        # From the same state the same command goes the same way.
        if (state := self._state()) in self._got_over:
            return faults.happened, code, broken
        broken += self._broken_again()
        if not broken:
            self._got_over.add(state)
        return faults.happened, code, broken

    def _state(self):
        """All that is in the output folder, but for times, inodes and the names of temporary files."""
        state = []
        for place, content in content_of(self.out).items():
            if place.endswith("/record.json") and content.startswith(b"{"):
                record = json.loads(content)
                for part, root in (("read", self.study), ("files", self.out)):
                    for name, entry in record.get(part, {}).items():
                        file = next(root.rglob(f"{record['scan']}")) if part == "read" else root / name
                        record[part][name] = [entry[-1], entry[:-1] == _stamp(file)]
                content = json.dumps({**record, "seconds": 0}, sort_keys=True).encode()
            elif place.endswith(".blindharmony/lock"):
                content = b""
            state.append((re.sub(r"\b\d+-[0-9a-f]{8}\b|staging/[0-9a-f]{12}", "", place), content))
        return hashlib.sha256(repr(sorted(state, key=lambda item: item[0])).encode()).digest()

    def _broken_again(self):
        """What the same command without the fault breaks."""
        broken = []
        code_again, said_again = self._run(1)
        if code_again:
            broken.append(f"without the fault: exit code {code_again}: {said_again.strip().splitlines()[-1:]}")
        if (now := self._results(self.out)) != self.new:
            names = [k for k in {**now, **self.new} if now.get(k) != self.new.get(k)]
            broken.append(f"without the fault: other bytes in {names}")
        left = [k for k in content_of(self.out) if ".tmp" in k or "/staging/" in k]
        if left:
            broken.append(f"left behind: {left}")
        if {result.status for result in verified(self.out)} != {"intact"}:
            broken.append("not intact after all")
        return broken

    @staticmethod
    def complete(place, content):
        """Whether a result is whole that neither run has made: of one scan alone, as the other has failed."""
        if place.startswith("scanners/"):
            return len(content) == hashlib.sha256().digest_size * 2
        first, _, last = content.partition(b"x" * 5000)
        return last == hashlib.sha256(first).hexdigest().encode()

    def harm(self, code):
        """What is lost or half-written after the run with a fault."""
        broken, now = [], content_of(self.out)
        if content_of(self.study) != self.inputs:
            broken.append("an input has changed")
        for place, content in now.items():
            name = place.rpartition("/")[2]
            if content is None or (name.startswith(".") and ".tmp" in name) or "/." in place:
                continue  # a folder, or a temporary file that could not be removed
            if "/staging/" in place:
                continue  # where files are made; the next run sweeps it
            if place.startswith(".blindharmony/"):
                # A fake scanner is no JSON.
                if place.endswith(".json") and ("/scanners/" not in place or place.endswith(".note.json")):
                    try:
                        json.loads(content)
                    except ValueError:
                        broken.append(f"half a record: {place}")
            elif place == "logs/failures.tsv":
                lines = content.decode().split("\n")
                if lines[-1] or any(line.count("\t") != 2 for line in lines[:-1]):
                    broken.append(f"half a table: {content!r}")
            elif content not in (self.old.get(place), self.new.get(place)) and not self.complete(place, content):
                broken.append(f"half-written: {place} ({len(content)} bytes)")
        if code == 0 and self._results(self.out) != self.new:
            broken.append("exit code 0 without all results")
        if code:
            # What a failed scan had from earlier goes with a word; of others it stays.
            table = now.get("logs/failures.tsv", b"").decode()
            for place in self.old:
                who = place.split("/")[0]
                if place not in now and who not in table:
                    broken.append(f"lost without a word: {place}")
        return broken
