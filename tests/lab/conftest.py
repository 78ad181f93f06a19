"""What several files of these tests share."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are empty files, for tests that are not about them: to draw those of one run takes seconds."""

    def save(figure: Any, path: Path) -> Path:
        path.touch()
        return path

    monkeypatch.setattr("fluctua.state.Report.plot", lambda *_: None)
    figures = {"demo": ("overview", "membrane", "raster", "learning"), "train_file": ("learning",)}
    for module, names in figures.items():
        monkeypatch.setattr(f"fluctua.lab.{module}.save", save)
        for name in names:
            monkeypatch.setattr(f"fluctua.lab.{module}.{name}_figure", lambda *_: None)
