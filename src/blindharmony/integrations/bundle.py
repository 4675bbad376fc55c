"""A target model as a MONAI bundle: a folder that ``monai.bundle`` can run, with the model, what it is, and how."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from blindharmony.errors import OutputError
from blindharmony.files import check_outputs, write_bytes, write_text
from blindharmony.models.card import included_targets
from blindharmony.models.file import load_target
from blindharmony.models.target import Target, card_rows
from blindharmony.version import VERSION

MODEL = "models/model.safetensors"
# The MONAI that tests run the bundle with, named where none is installed.
_MONAI = "1.6.1"


def write_bundle(target: str | Path, folder: Path, *, overwrite: bool = False) -> Path:
    """Write the bundle of a target model.

    Args:
        target: A model file, or the name of an included model.
        folder: Where to; made if missing.
        overwrite: Replace the files of an earlier bundle.

    Returns:
        The folder.

    Raises:
        TargetError: If there is no such model.
        OutputError: If the folder has something in it and ``overwrite`` is false, or cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(p.name for p in write_bundle("ds002748", Path(folder, "bundle")).iterdir())
        ['LICENSE', 'configs', 'docs', 'models']
    """
    model = load_target(str(target))
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError("exists already", remedy="pass --overwrite or choose another folder", path=folder)
    source = included_targets().get(str(target), Path(target))
    content = source.read_bytes()
    texts = {
        "configs/metadata.json": json.dumps(bundle_metadata(model), indent=2) + "\n",
        "configs/inference.json": json.dumps(_INFERENCE, indent=2) + "\n",
        "docs/README.md": _readme(model),
        "LICENSE": _licence(model),
    }
    check_outputs([folder / MODEL, *(folder / name for name in texts)], [source])
    write_bytes(folder / MODEL, content, overwrite=overwrite)
    for name, text in texts.items():
        write_text(folder / name, text, overwrite=overwrite)
    return folder


def bundle_metadata(target: Target) -> dict[str, Any]:
    """What MONAI's ``metadata.json`` says: versions, what it is for, what goes in and out.

    Example:
        >>> from blindharmony.models.file import load_target
        >>> bundle_metadata(load_target("ds002748"))["network_data_format"]["outputs"]["pred"]["num_channels"]
        1
    """
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": 1,
        "spatial_shape": ["*", "*", "*"],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {"0": target.info.suffix},
    }
    return {
        "version": target.info.made_with or VERSION,
        "changelog": {target.info.made_with or VERSION: f"model {target.digest}"},
        "monai_version": _installed("monai") or _MONAI,
        "pytorch_version": _plain("torch"),
        "numpy_version": _plain("numpy"),
        "required_packages_version": {"blindharmony": VERSION, "nibabel": _plain("nibabel")},
        "task": "Blind harmonization of MR scans",
        "name": f"blindharmony {target.info.name}",
        "description": f"Makes a {target.info.suffix} scan of any scanner look like those of '{target.info.name}'.",
        "authors": "The blindharmony developers",
        "copyright": target.info.licence or "not recorded",
        "data_source": target.info.data or "not recorded",
        "intended_use": "For research. Not a medical device.",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": image}},
    }


_INFERENCE: dict[str, Any] = {
    "imports": ["$import glob", "$import numpy as np"],
    "bundle_root": ".",
    "device": "cpu",
    "dataset_dir": "$@bundle_root + '/scans'",
    "output_dir": "$@bundle_root + '/eval'",
    "datalist": "$[{'image': name} for name in sorted(glob.glob(@dataset_dir + '/*.nii*'))]",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
            {
                "_target_": "blindharmony.integrations.monai.BlindHarmonizeD",
                "keys": "image",
                "target": f"$@bundle_root + '/{MODEL}'",
                "device": "@device",
            },
        ],
    },
    "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
    "postprocessing": {
        "_target_": "SaveImaged",
        "keys": "image",
        "output_dir": "@output_dir",
        "output_postfix": "desc-harmonized",
        "output_dtype": "$np.float32",
        "resample": False,
        "separate_folder": False,
    },
    "run": ["$[@postprocessing(item) for item in @dataset]"],
}


def _readme(target: Target) -> str:
    rows = "\n".join(f"| {name.strip()} | {value} |" for name, value in card_rows(target))
    return f"""# blindharmony: {target.info.name}

Makes a {target.info.suffix} scan of any MR scanner look as if the scanner of `{target.info.name}` had made it.

```
pip install "blindharmony[monai]" fire
python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir SCANS --output_dir OUT
```

Every `.nii` and `.nii.gz` file in SCANS comes back in OUT, in its own space. `blindharmony harmonize` with
`--target {MODEL}` does the same, and writes a report besides.

For research. Not a medical device. The people of the target were as the data set below says; a lesion, a contrast agent
or a child may be harmonized wrongly.

| what | value |
|---|---|
{rows}
"""


def _licence(target: Target) -> str:
    return (
        f"The model in {MODEL}: {target.info.licence or 'license not recorded'}.\n"
        f"Trained on: {target.info.data or 'not recorded'}.\n"
        "The program that runs it, blindharmony: Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0).\n"
    )


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _plain(package: str) -> str:
    """A version without its local part, which no index knows."""
    return metadata.version(package).split("+")[0]
