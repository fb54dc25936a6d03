import pytest


@pytest.fixture
def write(tmp_path):
    """Write bytes to a file and return its path."""

    def write(raw, name="vmcore"):
        path = tmp_path / name
        path.write_bytes(raw)
        return path

    return write
