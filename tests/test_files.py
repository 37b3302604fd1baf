"""Files that a kill leaves old or new, and event logs that survive a torn line."""

import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from divfeat import files
from divfeat.errors import DataError
from divfeat.files import append_line, finite, read_json, read_lines, read_mapping, write_json, write_text
from divfeat.seeding import stream_seed

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
in_tmp_path = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@in_tmp_path
@given(value=values)
def test_json_comes_back_with_null_for_what_json_lacks(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "deep" / "value.json"
    write_json(path, value)
    assert read_json(path) == finite(value)
    assert os.listdir(path.parent) == ["value.json"]


@given(value=values)
def test_finite_changes_only_what_is_not(value: Any) -> None:
    def check(before: Any, after: Any) -> None:
        if isinstance(before, float) and not math.isfinite(before):
            assert after is None
        elif isinstance(before, dict):
            assert list(after) == list(before)
            for key in before:
                check(before[key], after[key])
        elif isinstance(before, list):
            assert len(after) == len(before)
            for pair in zip(before, after, strict=True):
                check(*pair)
        else:
            assert after is before

    check(value, finite(value))


def test_finite_takes_numpy_floats_tuples_and_other_keys() -> None:
    assert finite({1: (np.float64("nan"), np.float64(0.5))}) == {"1": [None, 0.5]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "it is no JSON"), (b'{"run": 1', "it is no JSON"), (b"\xff\xfe", "it is no JSON"), (None, "directory")],
)
def test_json_that_cannot_be_read_is_told_with_its_place(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "record.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"record.json cannot be read .*{reason}.*restore it from a copy"):
        read_json(path)


def test_a_mapping_is_no_other_json(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    assert read_mapping(path) is None
    write_json(path, {"format": 1})
    assert read_mapping(path) == {"format": 1}
    for value in ([1], 3, "text"):
        write_json(path, value)
        with pytest.raises(DataError, match=f"study.json holds a JSON {type(value).__name__}, no settings by name"):
            read_mapping(path)


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old and long")
    write_text(path, "new ü")
    assert path.read_text(encoding="utf-8") == "new ü"


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"run": 1})

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, where, killed)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"run": 2})
    monkeypatch.undo()
    assert read_json(path) == {"run": 1}
    write_json(path, {"run": 3})
    assert read_json(path) == {"run": 3}


def test_content_is_on_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(files.os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_json(tmp_path / "a.json", [1])
    assert calls == ["fsync", "replace"]


def test_values_that_are_no_json_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert list(tmp_path.iterdir()) == []


def test_no_file_reads_as_nothing(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") is None
    assert read_lines(tmp_path / "none.jsonl") == []


@in_tmp_path
@given(rows=st.lists(values, min_size=1, max_size=5))
def test_lines_come_back_in_order(tmp_path: Path, rows: list[Any]) -> None:
    path = tmp_path / "log" / "events.jsonl"
    path.unlink(missing_ok=True)
    for row in rows:
        append_line(path, row)
    assert read_lines(path) == [finite(row) for row in rows]
    assert path.read_bytes().count(b"\n") == len(rows)  # whatever separators the text holds


@given(cut=st.integers(1, 30))
@in_tmp_path
def test_a_torn_line_takes_no_other_with_it(tmp_path: Path, cut: int) -> None:
    """A kill cuts the last write anywhere; the events before it stay, and so do those of the resumed run."""
    path = tmp_path / "events.jsonl"
    path.unlink(missing_ok=True)
    append_line(path, {"epoch": 0})
    whole = path.read_bytes()
    append_line(path, {"epoch": 1, "loss": 0.123456789})
    torn = path.read_bytes()[: len(whole) + cut]
    path.write_bytes(torn)
    assert read_lines(path) == [{"epoch": 0}]
    append_line(path, {"epoch": 1, "loss": 0.5})
    append_line(path, {"epoch": 2})
    assert read_lines(path) == [{"epoch": 0}, {"epoch": 1, "loss": 0.5}, {"epoch": 2}]


def test_writers_to_one_log_do_not_cut_each_others_lines(tmp_path: Path) -> None:
    """Each line is one write to a file opened for appending, however long it is."""
    path = tmp_path / "events.jsonl"

    def writer(number: int) -> None:
        for index in range(25):
            append_line(path, {"writer": number, "index": index, "text": "x" * 30_000})

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = read_lines(path)
    assert sorted((row["writer"], row["index"]) for row in rows) == [(w, i) for w in range(4) for i in range(25)]


# --- streams of random numbers (divfeat.seeding) -------------------------------------------------------------------------


@given(seed=st.integers(0, 2**63 - 1), names=st.lists(st.text(max_size=5) | st.integers(), max_size=3))
def test_stream_seeds_fit_every_generator(seed: int, names: list[str | int]) -> None:
    found = stream_seed(seed, *names)
    assert 0 <= found < 2**63
    assert found == stream_seed(seed, *names)


def test_streams_differ_by_seed_and_by_name() -> None:
    found = {
        stream_seed(seed, name, index) for seed in range(20) for name in ("weights", "frame") for index in range(5)
    }
    assert len(found) == 200


def test_stream_seeds_are_pinned() -> None:
    """Results in the ledger name seeds: the map from seed to stream may not drift."""
    assert stream_seed(0, "weights") == 133441691874178746
