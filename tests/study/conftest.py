import pytest
from fake_study import make_study


@pytest.fixture
def diary(tmp_path, monkeypatch):
    """Lines of what the fake work has begun."""
    file = tmp_path / "diary.txt"
    file.touch()
    monkeypatch.setenv("FAKE_DIARY", str(file))
    return lambda: file.read_text().splitlines()


@pytest.fixture
def study(tmp_path):
    """Three scans of one scanner, two of another, one of nobody knows which."""
    siemens, ge = {"Manufacturer": "Siemens", "DeviceSerialNumber": "1"}, {"Manufacturer": "GE", "EchoTime": 0.003}
    scans = {f"sub-0{i}": f"ok: {i}" for i in range(6)}
    known = {f"sub-0{i}": siemens if i < 3 else ge for i in range(5)}
    return make_study(tmp_path / "study", scans, known)
