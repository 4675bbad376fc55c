"""The recipes of the documentation under the workflow managers themselves, with the real harmonization.

``make workflow-check`` installs the managers in an environment of their own; without it these tests are skipped.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest

from blindharmony.models.file import load_target
from heads import head_grid, synthetic_brain

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = Path(os.environ.get("WORKFLOW_TOOLS", ROOT / "build" / "workflows" / "bin"))
pytestmark = pytest.mark.long


def recipe(language):
    """The block of the page in this language."""
    page = (ROOT / "docs" / "how-to" / "workflow-managers.md").read_text()
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return block


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two people of one scanner, with a session as Nipoppy wants it."""
    root = tmp_path_factory.mktemp("workflows") / "study"
    for number in (1, 2):
        head = synthetic_brain(*head_grid(number, mm=3.0), seed=number)
        scan = root / f"sub-0{number}/ses-BL/anat/sub-0{number}_ses-BL_T1w.nii.gz"
        scan.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(head.data, head.affine), scan)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "two", "BIDSVersion": "1.10.0"}))
    (root / "T1w.json").write_text(json.dumps({"DeviceSerialNumber": "1"}))
    return root


@pytest.fixture
def run(tmp_path):
    """Runs a program in a folder of its own, where ``blindharmony`` is the code under test."""
    shim = tmp_path / "bin" / "blindharmony"
    shim.parent.mkdir()
    source = os.pathsep.join(p for p in sys.path if p)
    shim.write_text(f'#!/bin/sh\nPYTHONPATH="{source}" exec "{sys.executable}" -m blindharmony "$@"\n')
    shim.chmod(0o755)

    def ran(*words):
        # Not this environment's packages: a manager has its own.
        places = os.pathsep.join([str(shim.parent), str(TOOLS), os.environ["PATH"]])
        environment = {**os.environ, "PATH": places, "PYTHONPATH": "", "HOME": str(tmp_path)}
        done = subprocess.run(
            [str(w) for w in words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1500
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return ran


def tool(name):
    if not (TOOLS / name).exists():
        pytest.skip(f"no {name} in {TOOLS}: make workflow-check")
    return TOOLS / name


def scanners(out):
    """Of each result: whether it was harmonized with its scanner's other scans."""
    sidecars = sorted(out.glob("sub-*/ses-BL/anat/*_desc-harmonized_T1w.json"))
    assert len(sidecars) == 2
    return [json.loads(file.read_text())["Parameters"]["Scanner"] is not None for file in sidecars]


@pytest.mark.parametrize(("rule", "fitted"), [("together", True), ("all_alone", False)])
def test_snakemake(rule, fitted, study, run, tmp_path, tiny_target_file):
    (tmp_path / "Snakefile").write_text(recipe("snakemake"))
    words = [tool("snakemake"), rule, "--cores", "2", "--config", f"study={study}", f"target={tiny_target_file}"]
    run(*words)
    assert scanners(tmp_path / "derivatives") == [fitted, fitted]
    assert (tmp_path / "derivatives" / "logs/cohort.tsv").exists()
    if rule == "together":
        assert (
            "Nothing to be done"
            in subprocess.run([str(w) for w in words], cwd=tmp_path, capture_output=True, text=True, check=True).stderr
        )


def test_nextflow_reads_and_its_commands_run(study, run, tmp_path, tiny_target_file):
    text = recipe("nextflow")
    scripts = re.findall(r'"""\n(.*?)"""', text, re.DOTALL)
    values = {
        "file(params.study)": str(study),
        "file(params.derivatives)": str(tmp_path / "derivatives"),
        "params.target": str(tiny_target_file),
        "task.cpus": "1",
    }

    def filled(script, **more):
        text = re.sub(r"\$\{(.*?)\}", lambda match: {**values, **more}[match[1]], script)
        return text.replace("\\\\\n", "\\\n")  # as Groovy reads it

    for who in ("sub-01", "sub-02"):
        run("bash", "-euo", "pipefail", "-c", filled(scripts[0], who=who))
    run("bash", "-euo", "pipefail", "-c", filled(scripts[1]))
    assert scanners(tmp_path / "derivatives") == [False, False]
    assert (tmp_path / "derivatives" / "cohort.html").exists()


def test_nextflow_has_the_form_of_a_workflow(tmp_path):
    (tmp_path / "harmonize.nf").write_text(recipe("nextflow"))
    code = (
        "import sys; from reftrace import Module; m = Module.from_file(sys.argv[1]); m = getattr(m, 'module', m);"
        "print(m.dsl_version, [p.name for p in m.processes], [p.name for p in m.params], len(m.workflows))"
    )
    tool("snakemake")
    words = [TOOLS / "python", "-c", code, tmp_path / "harmonize.nf"]
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    assert done.stdout.strip() == "2 ['HARMONIZE', 'COHORT'] ['study', 'derivatives', 'target'] 1", done.stderr


def test_nipoppy(study, run, tmp_path, tiny_target_file):
    tool("nipoppy")
    run("blindharmony", "export", "--nipoppy", "pipeline")
    asked = tmp_path / "pipeline" / "invocation-harmonize.json"
    content = {**json.loads(asked.read_text()), "target": str(tiny_target_file), "n_procs": 0}
    asked.write_text(json.dumps(content))
    run("nipoppy", "init", "--study", "mystudy")
    mine = tmp_path / "mystudy"
    (settings,) = mine.glob("global_config.json*")
    settings.write_text(settings.read_text().replace('"COMMAND": "apptainer"', '"COMMAND": null'))
    shutil.copytree(study, mine / "bids", dirs_exist_ok=True)
    rows = "".join(f"0{number}\tBL\tBL\t['anat']\n" for number in (1, 2))
    next(mine.rglob("manifest.tsv")).write_text(f"participant_id\tvisit_id\tsession_id\tdatatype\n{rows}")
    run("nipoppy", "track-curation", "--study", "mystudy", "--regenerate")
    for line in recipe("nipoppy").splitlines():
        run(*line.split())
    (out,) = (mine / "derivatives" / "blindharmony").glob("*/output")
    assert scanners(out) == [True, True]
    assert (out / "cohort.html").exists()
    (status,) = mine.rglob("processing_status.tsv")
    assert status.read_text().count("SUCCESS") == 2


def test_nipype(study, run, tmp_path, tiny_target_file):
    shutil.copy(study / "sub-01/ses-BL/anat/sub-01_ses-BL_T1w.nii.gz", tmp_path / "scan.nii.gz")
    text = recipe("nipype").replace('"ds002748"', repr(str(tiny_target_file)))
    (tmp_path / "pipeline.py").write_text(text)
    tool("nipypecli")
    run(TOOLS / "python", "pipeline.py")
    made = tmp_path / "work" / "study" / "harmonize"
    sidecar = json.loads((made / "harmonized.json").read_text())
    assert sidecar["Target"]["Name"] == load_target(tiny_target_file).info.name
    assert nib.load(made / "harmonized.nii.gz").shape == nib.load(tmp_path / "scan.nii.gz").shape
