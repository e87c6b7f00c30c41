"""The notebook runs from its first cell to its last, and is stored without what it printed."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "methods.ipynb"


def cells():
    found = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def test_it_is_stored_without_outputs():
    assert cells()
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells())


def test_its_cells_run_in_order(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pictures").mkdir()
    shutil.copy(ROOT / "pictures" / "scene_picnic.jpg", tmp_path / "pictures")
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(sys, "path", [*sys.path])
    names: dict = {}
    for cell in cells():
        exec("".join(cell["source"]), names)
    printed = capsys.readouterr().out
    assert names["finer"].windows == names["location"].windows  # a picture of one block
    assert names["said"]["laser"] == "6" != names["said"]["plain"]
    assert "'laser': '6'" in printed
