import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the development data sets."""
    folder = os.environ.get("FLUCTUA_DATA")
    if not folder:
        pytest.skip("FLUCTUA_DATA does not name the folder of the development data sets")
    return Path(folder)
