"""What every kind of storage promises: one suite over a folder that nodes share, a server of S3 and one of GCS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from divfeat.errors import DataError
from divfeat.storage import Store, reopen
from divfeat.storage.keys import is_key

ROOT = Path(__file__).resolve().parents[2]

#: Names as people and libraries make them, MLflow's artifacts too.
PARTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/\\"), min_size=1, max_size=12
) | st.sampled_from(["runs", "record.json", "a b", "100%", "a?b", "a#b", "a&b=c", "a+b", "..x", "x..", "é", "[1]", "*"])
#: A file system cannot hold a file and a folder of one name, and nothing of ours asks for it.
KEYS = (
    st.lists(PARTS, min_size=1, max_size=3)
    .map(lambda parts: "~/".join(parts))
    .filter(lambda key: is_key(key) and not key.endswith("~"))
)


def test_what_is_written_is_read(store: Store) -> None:
    assert store.read("a/b.json") is None
    store.write("a/b.json", b"one")
    assert store.read("a/b.json") == b"one"
    store.write("a/b.json", b"two, longer")
    assert store.read("a/b.json") == b"two, longer"
    store.write("a/b.json", b"")
    assert store.read("a/b.json") == b""


def test_files_come_and_go(store: Store, tmp_path: Path) -> None:
    source, copy = tmp_path / "source.bin", tmp_path / "deep" / "copy.bin"
    source.write_bytes(os.urandom(20 * 2**20))  # S3 takes it in several parts
    store.put("stages/0/checkpoint.pt", source)
    found = store.get("stages/0/checkpoint.pt", copy)
    assert found is not None
    assert found == store.stat("stages/0/checkpoint.pt") == store.list()["stages/0/checkpoint.pt"]
    assert copy.read_bytes() == source.read_bytes()
    assert copy.stat().st_mtime_ns == found.mtime  # what tells later whether the copy is still the store's
    assert found.size == 20 * 2**20
    assert store.get("stages/0/none.pt", tmp_path / "none") is None
    assert not (tmp_path / "none").exists()
    assert sorted(path.name for path in copy.parent.iterdir()) == ["copy.bin"]


def test_a_copy_that_fails_leaves_what_was_there(store: Store, tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(b"mine")
    assert store.get("none", tmp_path / "copy") is None
    assert (tmp_path / "copy").read_bytes() == b"mine"
    with pytest.raises(FileNotFoundError):
        store.put("key", tmp_path / "no source")
    assert store.list() == {}


def test_a_list_names_files_below_a_folder_and_no_neighbour(store: Store) -> None:
    for key in ("runs/1/record.json", "runs/1/extractor/weights.pt", "runs/10/record.json", "runs.json", "study.json"):
        store.write(key, b"x")
    assert list(store.list("runs/1")) == ["runs/1/extractor/weights.pt", "runs/1/record.json"]
    assert list(store.list("runs")) == ["runs/1/extractor/weights.pt", "runs/1/record.json", "runs/10/record.json"]
    assert len(store.list()) == 5
    assert store.list("none") == {}
    assert store.stat("runs") is None
    assert store.read("runs") is None


def test_removing(store: Store) -> None:
    for key in ("stages/1/a", "stages/1/b/c", "stages/10/a", "x"):
        store.write(key, b"x")
    store.delete("x")
    store.delete("x")
    store.delete("stages/none")
    store.delete_prefix("stages/1")
    store.delete_prefix("stages/1")
    store.delete_prefix("none")
    assert list(store.list()) == ["stages/10/a"]


def test_a_store_inside_another(store: Store) -> None:
    inner = store.inside("digits-0").inside("more")
    inner.write("a/b", b"x")
    store.write("digits-00/a", b"y")
    assert list(inner.list()) == ["a/b"]
    assert list(store.list()) == ["digits-0/more/a/b", "digits-00/a"]
    assert reopen(**inner.address).read("a/b") == b"x"  # on another machine
    with pytest.raises(DataError, match="leads elsewhere"):
        inner.read("../../digits-00/a")


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "..", "../x", "a/../../x", "a/./b", "a//b", "a/", "a\\b", "a\nb", "a\0b", "x" * 300]
)
def test_no_name_leads_out_of_the_root(store: Store, tmp_path: Path, key: str) -> None:
    store.write("inside", b"x")
    (tmp_path / "file").write_bytes(b"secret")
    for call in (
        lambda: store.read(key),
        lambda: store.write(key, b"x"),
        lambda: store.put(key, tmp_path / "file"),
        lambda: store.get(key, tmp_path / "copy"),
        lambda: store.stat(key),
        lambda: store.delete(key),
        lambda: store.delete_prefix(key),
        lambda: store.inside(key),
    ):
        with pytest.raises(DataError, match="is no name under a study's storage"):
            call()
    assert list(store.list()) == ["inside"]
    assert not (tmp_path / "copy").exists()


def test_any_name_holds_any_bytes(store: Store) -> None:
    """A dictionary, operation for operation, is what the store is compared with."""

    class Same(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            for key in store.list():
                store.delete(key)
            self.known: dict[str, bytes] = {}

        @rule(key=KEYS, data=st.binary(max_size=64))
        def write(self, key: str, data: bytes) -> None:
            store.write(key, data)
            self.known[key] = data

        @rule(key=KEYS)
        def delete(self, key: str) -> None:
            store.delete(key)
            self.known.pop(key, None)

        @rule(data=st.data())
        def read(self, data: st.DataObject) -> None:
            if self.known:
                key = data.draw(st.sampled_from(sorted(self.known)))
                assert store.read(key) == self.known[key]

        @rule(data=st.data())
        def delete_folder(self, data: st.DataObject) -> None:
            folders = sorted({key.rpartition("/")[0] for key in self.known if "/" in key})
            if folders:
                folder = data.draw(st.sampled_from(folders))
                store.delete_prefix(folder)
                self.known = {key: value for key, value in self.known.items() if not key.startswith(f"{folder}/")}

        @invariant()
        def same_names(self) -> None:
            assert {key: entry.size for key, entry in store.list().items()} == {
                key: len(data) for key, data in self.known.items()
            }

    run_state_machine_as_test(
        Same,
        settings=settings(
            max_examples=20, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@settings(max_examples=300)
@given(st.text(max_size=40))
def test_a_name_that_passes_stays_under_a_root(key: str) -> None:
    if is_key(key):
        path = os.path.normpath(os.path.join("/root/of/store", key))
        assert path == f"/root/of/store/{key}"


WRITER = """
import itertools, json, sys
from pathlib import Path
from divfeat.storage import reopen
store = reopen(**json.loads(sys.argv[1]))
path = Path(sys.argv[2])
for number in itertools.count(1):
    path.write_bytes(b"%016d" % number * int(sys.argv[3]))
    store.put("runs/0/record.json", path)
    print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("times", [64, 400_000], ids=["small", "in parts"])
def test_a_kill_while_writing_leaves_the_old_or_the_new(store: Store, tmp_path: Path, times: int) -> None:
    """kill -9 of a process that writes in a loop, at another moment each time; read in between as well."""
    import json

    address, seen = json.dumps(store.address), 0
    for attempt in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, address, str(tmp_path / "out"), str(times)],
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
        )
        assert writer.stdout is not None
        told = int(writer.stdout.readline())
        deadline = time.monotonic() + 0.05 + 0.11 * attempt
        while time.monotonic() < deadline:
            seen += _whole(store.read("runs/0/record.json"), times) > 0
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0].split()
        told = int(rest[-1]) if rest and rest[-1].isdigit() and len(rest) > 1 else told
        assert _whole(store.read("runs/0/record.json"), times) >= told - 1
        assert list(store.list()) == ["runs/0/record.json"]
    assert seen


def _whole(data: bytes | None, times: int) -> int:
    """The number that was written, so many times, and nothing else."""
    assert data is not None
    assert data == data[:16] * times
    return int(data[:16])
