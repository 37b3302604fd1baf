"""The example notebook: what is committed came from its own cells, and they run."""

import nbformat
import pytest

import divfeat
from tests.executed import NOTEBOOK, executed, source_hash

COMMITTED = nbformat.read(NOTEBOOK, as_version=4)
CODE = [cell for cell in COMMITTED.cells if cell.cell_type == "code"]


def test_outputs_came_from_these_cells():
    """Where this fails the cells were changed since: `python -m tests.executed` runs them and writes the outputs anew."""
    assert COMMITTED.metadata["divfeat"]["outputs_of"] == source_hash(COMMITTED)
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    assert all(cell.outputs for cell in CODE)
    assert not [output for cell in CODE for output in cell.outputs if output.output_type == "error"]


def test_it_is_small_and_names_no_folder_of_a_machine():
    assert NOTEBOOK.stat().st_size < 1_000_000
    text = NOTEBOOK.read_text(encoding="utf-8")
    for word in ("/home/", "/work/", "/root/", "/tmp/", "/opt/", "/usr/"):
        assert word not in text, word


def test_it_shows_what_the_story_needs():
    kinds = [kind for cell in CODE for output in cell.outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 4 and kinds.count("text/html") >= 4
    said = " ".join(str(output) for cell in CODE for output in cell.outputs)
    assert "The winner: " in said and "paired seeds" in said


@pytest.mark.slow
def test_its_cells_run(tmp_path):
    """By a real kernel, in a folder of its own; a cell that raises fails."""
    (tmp_path / "studies").mkdir()
    found = executed(NOTEBOOK, tmp_path / "studies")
    assert source_hash(found) == source_hash(COMMITTED)
    (folder,) = (tmp_path / "runs").iterdir()
    result = divfeat.open_study(folder)
    shown = [output for cell in found.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any(result.verdict in str(output) for output in shown)
    assert [cell.execution_count for cell in found.cells if cell.cell_type == "code"] == [
        cell.execution_count for cell in CODE
    ]
