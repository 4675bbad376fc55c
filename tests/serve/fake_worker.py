"""A worker without MR: milliseconds instead of minutes. What a scan is called says how it behaves.

``slow`` takes until it is killed, ``fail`` gives no result, ``die`` kills itself, ``model`` cannot load the target,
``mad`` says what no worker should say.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path


def tell(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def done(asked, index, label):
    stem = Path(asked["scans"][index]).name.removesuffix(".gz").removesuffix(".nii")
    results = Path(asked["results"])
    results.mkdir(exist_ok=True)
    names = [f"{stem}_desc-harmonized{end}" for end in (".nii.gz", ".html", ".viewer.html", ".json")]
    for name in names:
        (results / name).write_text(f"<p>{name} of {label}</p>" + 5000 * "x")
    return {"files": names, "verdict": "good", "headline": "Harmonized.", "seconds": 1.5, "warnings": ["<b>w</b>"]}


def main():
    asked = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
    if diary := os.environ.get("FAKE_DIARY"):
        with Path(diary).open("a") as file:
            file.write(f"{' '.join(asked['labels'])} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    tell({"stage": "Finding the brain", "share": 0.25})
    for index, label in enumerate(asked["labels"]):
        if "slow" in label:
            (Path(asked["results"])).mkdir(exist_ok=True)
            (Path(asked["results"]) / "half").write_text("half")
            tell({"stage": "Harmonizing", "share": 0.5})
            time.sleep(60)
        if "die" in label:
            os.kill(os.getpid(), signal.SIGKILL)
        if "mad" in label:
            tell({"scan": "x", "outcome": 3, "stage": [], "share": "much"})
            tell({"scan": index, "outcome": {"files": ["../../job.json"]}})
            print("[" * 3000, flush=True)
            continue
        if "model" in label:
            tell({"end": True, "reason": "no such target model", "remedy": "give a model file"})
            return
        why = {"reason": "no brain was found", "remedy": "check the scan"}
        tell({"scan": index, "outcome": why if "fail" in label else done(asked, index, label)})
    tell({"end": True})


if __name__ == "__main__":
    main()
