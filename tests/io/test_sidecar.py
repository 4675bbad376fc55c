import json
from pathlib import Path

import numpy as np
import pytest

from blindharmony.errors import OutputError
from blindharmony.files import write_sidecar


def test_values_become_plain_json(tmp_path):
    path = write_sidecar(
        tmp_path / "a.json",
        {
            "z": np.float32(0.5),
            "n": np.int64(3),
            "a": np.array([[1.0, np.nan], [np.inf, 2.0]]),
            "p": Path("x/y.nii"),
            "d": {"t": (True, None), "b": np.bool_(True)},
            "u": "é",
        },
    )
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {
        "a": [[1.0, None], [None, 2.0]],
        "d": {"b": True, "t": [True, None]},
        "n": 3,
        "p": "x/y.nii",
        "u": "é",
        "z": 0.5,
    }
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_order_of_keys_does_not_matter(tmp_path):
    one = write_sidecar(tmp_path / "1.json", {"a": 1, "b": 2}).read_bytes()
    assert write_sidecar(tmp_path / "2.json", {"b": 2, "a": 1}).read_bytes() == one


def test_no_json_form_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_sidecar(tmp_path / "a.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_existing_is_kept(tmp_path):
    write_sidecar(tmp_path / "a.json", {})
    with pytest.raises(OutputError, match="--overwrite"):
        write_sidecar(tmp_path / "a.json", {"a": 1})
    write_sidecar(tmp_path / "a.json", {"a": 1}, overwrite=True)
