"""Files are read once, however often a run is started."""

import os
from pathlib import Path
from types import SimpleNamespace

from blindharmony.study.ledger import file_state


def test_what_has_not_been_touched_is_not_read_again(tmp_path, monkeypatch):
    files = [tmp_path / f"{i}.nii" for i in range(3)]
    for i, file in enumerate(files):
        file.write_text(f"scan {i}")
    read, opened = [], Path.open

    def counted(self, mode="r", *others, **more):
        if mode == "rb" and self.suffix == ".nii":
            read.append(self.name)
        return opened(self, mode, *others, **more)

    monkeypatch.setattr(Path, "open", counted)
    # Some file systems number their files beyond what JSON readers take.
    stat = Path.stat

    def far(self, **more):
        found = stat(self, **more)
        known = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
        return SimpleNamespace(**{**known, "st_ino": 2**64 - 1})

    monkeypatch.setattr(Path, "stat", far)
    first = {file: file_state(file, None) for file in files}
    assert sorted(read) == ["0.nii", "1.nii", "2.nii"]
    read.clear()
    assert {file: file_state(file, ["damaged"], first[file]) for file in files} == first
    assert not read
    # Another content of the same length and date is another file.
    times = files[1].stat()
    files[1].write_text("scan 7")
    os.utime(files[1], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_state(files[1], first[files[1]])[-1] != first[files[1]][-1]
    assert read == ["1.nii"]
