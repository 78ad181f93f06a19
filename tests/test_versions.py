"""Other versions: a part of the suite in environments of their own, with the lowest versions and on each Python.

`python -m pytest -m slow -s tests/test_versions.py` installs them, some gigabytes; `FLUCTUA_ENVIRONMENTS` names a
folder that keeps them for the next time.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What asks for most of what lies below: NumPy, torch, numba, HDF5, safetensors, typer and rich, Lightning, joblib.
PART = (
    "tests/theory/test_weights.py",
    "tests/network/test_hooks.py",
    "tests/methods/test_poisson.py",
    "tests/methods/test_tensors.py",
    "tests/neurons/test_neurons.py",
    "tests/layers/test_dale.py",
    "tests/simd/test_compiling.py",
    "tests/timeloop/test_contract.py",
    "tests/test_files.py",
    "tests/lab/test_durable.py",
    "tests/lab/test_cli.py",
    "tests/lab/training/test_folder.py",
    "tests/lab/sweeps/test_store.py",
)

LOWEST = ("-r", "requirements-lowest.txt")
TESTED = ("-c", "constraints.txt", ".[train,dev]")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "python", "wanted"),
    [
        ("lowest", "python3.11", LOWEST),
        *((f"python{minor}", f"python{minor}", TESTED) for minor in ("3.12", "3.13", "3.14")),
    ],
)
def test_a_part_of_the_suite_passes_with(name: str, python: str, wanted: tuple[str, ...], tmp_path: Path) -> None:
    found = shutil.which(python)
    if found is None or subprocess.run([found, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no {python} here")
    environment = Path(os.environ.get("FLUCTUA_ENVIRONMENTS", tmp_path)) / name
    run(found, "-m", "venv", str(environment))
    inside = str(environment / "bin" / "python")
    run(inside, "-m", "pip", "install", "-q", *wanted)
    run(inside, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", ".")
    said = run(inside, "-m", "pytest", "-p", "no:cacheprovider", *PART).splitlines()
    print(f"\n{name}: {said[-1]}")
    assert "passed" in said[-1]


def run(*command: str) -> str:
    """What a command prints, run with the environment of this process, but for what leads back to its sources."""
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("path", PART)
def test_the_part_is_there(path: str) -> None:
    assert (ROOT / path).is_file()
