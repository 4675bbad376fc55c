import pytest

from report_evidence import made_evidence


@pytest.fixture
def make_evidence():
    return made_evidence


@pytest.fixture(scope="session")
def evidence():
    return made_evidence()
