"""What every test starts from, whatever ran before it and on whatever machine."""

import gc
import os
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

# How fast a machine is, and what else it does, is no law.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")
# For mutation testing, where each of thousands of faults is to be seen by the same few examples.
hypothesis.settings.register_profile("mutants", parent=hypothesis.settings(), max_examples=20, derandomize=True)


def pytest_collection_finish() -> None:
    """What is loaded now stays: the garbage collector need not look through it again, a sixth of the tests' time."""
    gc.collect()
    gc.freeze()


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
