"""Notebooks executed by a real kernel: `python -m tests.executed` writes the outputs of the committed one anew."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "studies" / "tau_search.ipynb"


def source_hash(notebook: nbformat.NotebookNode) -> str:
    """Of the code cells, in order; the notebook's metadata has that of those its outputs came from."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def drop_stderr(notebook: nbformat.NotebookNode) -> None:
    """Leave out what packages say on stderr: progress bars and hints, which name folders of the machine."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook at `path`, its code cells run one after the other by a kernel in `folder`.

    Raises:
        CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.clear()
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", record_timing=False, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    drop_stderr(notebook)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "divfeat": {"outputs_of": source_hash(notebook)},
    }
    return notebook


if __name__ == "__main__":
    nbformat.write(executed(NOTEBOOK, NOTEBOOK.parent), NOTEBOOK)
