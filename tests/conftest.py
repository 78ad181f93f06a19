"""What every test starts from, whatever ran before it and on whatever machine."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the development data sets."""
    folder = os.environ.get("FLUCTUA_DATA")
    if not folder:
        pytest.skip("needs the development data sets: set FLUCTUA_DATA to their folder")
    return Path(folder)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Numbers that a test draws without a seed do not depend on the tests before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the state that others draw from
    torch.manual_seed(0)
