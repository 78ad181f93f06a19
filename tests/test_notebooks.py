"""Laws of the notebooks: each runs from top to bottom at small size, shows what it says, and opens on Colab."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NEEDS = {"silent_snntorch": "snntorch", "spikingjelly_resnet": "spikingjelly"}
PICTURES = {"silent_snntorch": 3, "spikingjelly_resnet": 1, "dale_rnn": 1, "depth_20": 1, "paper": 3, "change_dt": 1}


def code(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_every_notebook_is_known() -> None:
    assert {path.stem for path in NOTEBOOKS} == PICTURES.keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_installs_itself_on_colab(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if "outputs" in cell)
    first, second, *_ = code(notebook)
    assert "%pip install" in first
    assert NEEDS.get(path.stem, "fluctua") in first
    assert "FLUCTUA_SMALL" in second


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One for all notebooks, as each would import the same packages for seconds; names are deleted between them."""
    client = pytest.importorskip("jupyter_client")
    path = os.pathsep.join([str(FOLDER.parent / "src"), os.environ.get("PYTHONPATH", "")])
    kernel = client.KernelManager(client_class="jupyter_client.asynchronous.AsyncKernelClient")
    kernel.start_kernel(
        cwd=str(tmp_path_factory.mktemp("notebooks")), env={**os.environ, "FLUCTUA_SMALL": "1", "PYTHONPATH": path}
    )
    yield kernel
    kernel.shutdown_kernel()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_its_pictures(path: Path, kernel: Any) -> None:
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    nbclient.NotebookClient(notebook, timeout=300, km=kernel).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES[path.stem]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
