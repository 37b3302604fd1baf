"""A short run of what `python -m tests.chaos` does for longer: each kind of fault once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import KINDS, run


@pytest.mark.slow
def test_a_study_that_is_killed_in_every_way_is_the_study_it_would_have_been(tmp_path: Path) -> None:
    found = run(tmp_path, seed=1, faults=len(KINDS))
    assert found["broken"] == []
    assert found["faults"] == dict.fromkeys(KINDS, 1)
