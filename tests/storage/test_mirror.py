"""The ledger over each kind of storage: what is written is there for another machine, in order, and the store is the truth."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from divfeat.config import MethodConfig
from divfeat.errors import ConfigError, DataError, StorageLostError
from divfeat.files import read_json, write_json
from divfeat.search.jobs import experiment
from divfeat.search.ledger import Ledger
from divfeat.search.mirror import Mirror
from divfeat.stages import checkpoint, say_first_stage_done, stage_key
from divfeat.storage import Store, open_store
from tests.search.samples import completed, make_study
from tests.storage.conftest import KINDS, uri_of

ROOT = Path(__file__).resolve().parents[2]
STUDY = make_study()
CONFIG = experiment(STUDY, MethodConfig(name="ce"), 0)
FAILED = completed(CONFIG, {}) | {"status": "failed", "error": "x", "error_kind": "error", "finished": 7.5}

Machine = Callable[[str], Ledger]


@pytest.fixture(params=["plain", *KINDS])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """Name of a machine -> the study's ledger as that machine has it: one folder for all of them, or a home of its own."""
    if request.param == "plain":
        return lambda name: Ledger(tmp_path / "everywhere" / "mine")
    uri = uri_of(request.param, request, tmp_path)
    return lambda name: Ledger(
        tmp_path / name / "mine", Mirror(open_store(uri).inside("mine"), tmp_path / name / "mine")
    )


@pytest.fixture
def shared(store: Store, tmp_path: Path) -> Machine:
    return lambda name: Ledger(tmp_path / name / "mine", Mirror(store.inside("mine"), tmp_path / name / "mine"))


def begin(ledger: Ledger) -> Ledger:
    ledger.open(STUDY)
    ledger.close()
    return ledger


def seen(ledger: Ledger) -> Ledger:
    """By a driver that takes the study up on its machine."""
    if ledger.mirror is not None:
        assert ledger.check(STUDY)
        with ledger.mirror.held():
            pass
    return ledger


def test_another_machine_finds_what_was_written(machine: Machine) -> None:
    one = begin(machine("one"))
    one.write_proposal(0, {"key": "aa", "params": {"tau": 0.5}})
    one.write_proposal(0, {"key": "bb", "params": {}}, "ce")
    one.start("aa", {"phase": "search"})
    one.write_phase("winner", {"trials": 3})
    one.write_phase("winner", {"trials": 4})
    one.write_phase("done", {"trials": 4})
    one.write_record("aa", completed(CONFIG, {"m": 1.0}))
    one.test_read("aa", "why")
    one.test_read("aa", "again")
    one.test_read("bb", "why")
    one.fault("aa", "node", "gone")
    one.fault("aa", "node", "gone again")
    one.write_spend({"cost": 2.0})
    one.write_execution({"trials": 4})
    other = seen(machine("other"))
    assert other.check(STUDY)
    assert other.proposals() == {0: {"number": 0, "key": "aa", "params": {"tau": 0.5}}}
    assert other.proposals("ce")[0]["key"] == "bb"
    assert other.started()["aa"]["phase"] == "search"
    assert other.phase("winner") == {"trials": 4}
    assert other.record("aa") == one.record("aa")
    assert [row["key"] for row in other.test_reads()] == ["aa", "bb"]
    assert [row["cause"] for row in other.faults("aa")] == ["gone", "gone again"]
    assert other.spend() == {"cost": 2.0}
    other.reopen()
    assert seen(machine("one")).phase("done") is None
    assert read_json(machine("one").folder / "execution.json") == {"trials": 4}


def test_what_was_forgiven_elsewhere_is_forgiven_here(machine: Machine) -> None:
    one = begin(machine("one"))
    for key in ("aa", "bb"):
        one.start(key, {"phase": "search"})
        one.write_proposal(int(key == "bb"), {"key": key})
    one.write_record("aa", FAILED)
    one.write_record("bb", completed(CONFIG, {}))
    assert seen(machine("other")).forgive({"search"}) == ["aa"]
    again = seen(machine("one"))
    assert again.record("aa") is None
    assert again.record("bb") is not None
    assert list(again.proposals()) == [1]
    assert read_json(again.run_folder("aa") / "failed-7.json")["status"] == "failed"


def test_first_stages_and_checkpoints(machine: Machine, tmp_path: Path) -> None:
    ledger = begin(machine("one"))
    assert not ledger.first_stage_done(CONFIG)
    word = say_first_stage_done(tmp_path / "node", CONFIG)
    if ledger.mirror is None:
        say_first_stage_done(ledger.stages, CONFIG)
    else:
        ledger.mirror.store.put(f"stages/{stage_key(CONFIG)}/{word.name}", word)
        assert not ledger.first_stage_done(CONFIG)  # asked a moment ago
        ledger.mirror._stages_done.clear()
    assert ledger.first_stage_done(CONFIG)
    ledger.remove_stages_of(CONFIG, shared=True)
    assert seen(machine("one")).first_stage_done(CONFIG)
    ledger.remove_stages_of(CONFIG, shared=False)
    assert not machine("other").first_stage_done(CONFIG)
    ledger.remove_stages()


def test_a_run_is_fetched_as_its_worker_left_it(shared: Machine, store: Store) -> None:
    ledger = begin(shared("one"))
    ledger.start("aa", {"phase": "search"})
    ledger.heard("aa", [{"epoch": 0}])
    assert ledger.events("aa") == [{"epoch": 0}]
    for name, data in {"events.jsonl": b'{"epoch": 0}\n{"epoch": 1}\n', "extractor/weights.pt": b"w"}.items():
        store.write(f"mine/runs/aa/{name}", data)
    store.write("mine/runs/aa/record.json", json.dumps(completed(CONFIG, {"m": 2.0})).encode())
    ledger.fetch("aa")
    record = ledger.record("aa")
    assert record is not None and record["metrics"] == {"m": 2.0}
    assert [row["epoch"] for row in ledger.events("aa")] == [0, 1]
    assert (ledger.run_folder("aa") / "extractor" / "weights.pt").read_bytes() == b"w"


def test_what_is_home_already_is_not_copied_again(shared: Machine) -> None:
    ledger = begin(shared("one"))
    ledger.write_phase("winner", {"trials": 3})
    seen(ledger)
    path = ledger.folder / "phases" / "winner.json"
    path.write_text(path.read_text().replace("3", "4"))
    assert ledger.mirror is not None
    os.utime(path, ns=(0, ledger.mirror.store.list()["phases/winner.json"].mtime))
    seen(shared("one"))
    assert ledger.phase("winner") == {"trials": 4}  # size and time are the store's: not looked at
    os.utime(path, ns=(0, 1))
    seen(shared("one"))
    assert ledger.phase("winner") == {"trials": 3}


def test_a_study_of_one_machine_is_taken_into_the_store(shared: Machine) -> None:
    ledger = shared("one")
    alone = begin(Ledger(ledger.folder))
    alone.write_phase("winner", {"trials": 3})
    alone.start("aa", {"phase": "search"})
    alone.event("aa", {"epoch": 0})
    checkpoint(alone.stages, stage_key(CONFIG)).parent.mkdir(parents=True)
    checkpoint(alone.stages, stage_key(CONFIG)).write_bytes(b"c")
    seen(ledger)
    other = seen(shared("other"))
    assert other.phase("winner") == {"trials": 3}
    assert other.events("aa") == [{"epoch": 0}]
    assert other.mirror is not None
    assert other.mirror.store.read(f"stages/{stage_key(CONFIG)}/checkpoint.pt") == b"c"


def test_a_study_of_its_own_in_the_home_is_not_mixed_with_the_store_s(shared: Machine) -> None:
    begin(shared("one"))
    time.sleep(0.01)
    begin(Ledger(shared("other").folder))
    with pytest.raises(ConfigError, match=r"holds a study of its own.*execution.home"):
        shared("other").check(STUDY)
    changed = make_study(seed=5)
    with pytest.raises(ConfigError, match="is taken by a study with other settings"):
        shared("third").check(changed)
    assert not shared("third").folder.exists()


def test_a_store_that_lost_files_gets_them_back(shared: Machine, store: Store) -> None:
    ledger = begin(shared("one"))
    ledger.write_phase("winner", {"trials": 3})
    store.delete("mine/phases/winner.json")
    seen(shared("one"))
    assert seen(shared("other")).phase("winner") == {"trials": 3}


def test_links_in_the_home_lead_nowhere(shared: Machine, tmp_path: Path) -> None:
    one = begin(shared("one"))
    one.write_phase("winner", {"trials": 3})
    other = shared("other")
    other.folder.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (other.folder / "phases").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link, which could lead out"):
        seen(other)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_one_driver_at_a_time(shared: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = begin(shared("one")), shared("two")
    assert one.mirror is not None and two.mirror is not None
    with one.mirror.held():
        monkeypatch.setattr("divfeat.search.lease._boot", lambda: "another machine")
        with pytest.raises(
            ConfigError, match=r"runs this study \(last heard of \d+ s ago\); wait for it, or use --name"
        ):
            two.mirror.lease.take()
        monkeypatch.setattr("divfeat.search.lease.GONE_SECONDS", 0.0)  # it was silent for as long as that takes
        two.mirror.lease.take()
        one.mirror.lease.beat()
        with pytest.raises(StorageLostError, match="has taken the study over"):
            one.write_phase("winner", {"trials": 3})
    two.mirror.lease.release()
    assert two.phase("winner") is None
    assert "driver.json" not in two.mirror.store.list()


def test_a_driver_lives_however_long_its_copies_take(shared: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large study pulled at the start, and of features sent at the end."""
    monkeypatch.setattr("divfeat.search.lease.BEAT_SECONDS", 0.05)
    one = begin(shared("one"))
    mirror = one.mirror
    assert mirror is not None
    beats: list[int] = []

    def words() -> int:
        found = mirror.store.stat("driver.json")
        assert found is not None
        return found.mtime

    def slowly() -> None:
        before, deadline = words(), time.monotonic() + 60
        while words() == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        beats.append(words() - before)

    monkeypatch.setattr(mirror, "_pull", slowly)
    monkeypatch.setattr("divfeat.search.copies.Copies.copy", lambda self: slowly())
    with mirror.held():
        pass
    assert len(beats) == 2
    assert "driver.json" not in mirror.store.list()


def test_two_that_begin_at_the_same_moment_are_told_apart(shared: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = begin(shared("one")), shared("two")
    assert one.mirror is not None and two.mirror is not None
    say = one.mirror.lease._say

    def both() -> None:
        say()
        two.mirror.lease._say()  # its word comes later, and counts

    monkeypatch.setattr(one.mirror.lease, "_say", both)
    with pytest.raises(ConfigError, match="began this study at the same moment; wait for it, or use --name"):
        one.mirror.lease.take()


DRIVER = """
import json, sys
from pathlib import Path
from divfeat.search.ledger import Ledger
from divfeat.search.mirror import Mirror
from divfeat.storage import reopen
home = Path(sys.argv[2])
ledger = Ledger(home, Mirror(reopen(**json.loads(sys.argv[1])), home))
for number in range(10000):
    key = f"{number:04d}"
    ledger.write_proposal(number, {"key": key})
    ledger.start(key, {"phase": "search"})
    ledger.test_read(key, "why")
    ledger.write_record(key, {"status": "failed", "error_kind": "error", "finished": number, "metrics": {}})
    ledger.write_phase("winner", {"trials": number})
    if number % 3 == 2:
        ledger.forgive({"search"})
    print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(4))
def test_a_kill_between_any_two_writes_leaves_all_before_and_none_after(
    shared: Machine, store: Store, tmp_path: Path, attempt: int
) -> None:
    """The driver is killed, its machine lost: what the store has is what it had done, up to one write."""
    begin(shared("one"))
    line = [sys.executable, "-c", DRIVER, json.dumps(store.inside("mine").address), str(tmp_path / "one" / "mine")]
    driver = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    assert driver.stdout is not None
    driver.stdout.readline()
    time.sleep(0.2 + 0.173 * attempt)
    driver.send_signal(signal.SIGKILL)
    rest = driver.communicate()[0].split()
    told = int(rest[-1]) if rest else 0
    home = Ledger(tmp_path / "one" / "mine")
    before = {path.relative_to(home.folder): path.read_bytes() for path in home.folder.rglob("*.json")}
    shutil.rmtree(tmp_path / "one")

    ledger = seen(shared("new"))
    proposals, reads = ledger.proposals(lost=True), [row["key"] for row in ledger.test_reads()]
    records = [key for key in ledger.started() if ledger.record(key) or list(ledger.run_folder(key).glob("failed-*"))]
    winner = ledger.phase("winner")
    assert winner is not None
    counts = [len(proposals), len(ledger.started()), len(reads), len(records), winner["trials"] + 1]
    assert counts == sorted(counts, reverse=True)  # in the order they were written
    assert counts[0] - counts[-1] <= 1
    assert counts[-1] > told
    assert reads == [f"{number:04d}" for number in range(len(reads))]
    for path, data in before.items():  # nothing was here that was not there first
        if path.name == "record.json" and not (ledger.folder / path).exists():
            continue  # it was being forgiven
        assert read_json(ledger.folder / path) is not None
        assert path.name in ("winner.json",) or "proposals" in path.parts or (ledger.folder / path).read_bytes() == data
    ledger.forgive({"search"})
    ledger.write_phase("winner", {"trials": 1})


def test_a_home_that_lost_everything_but_its_databases(shared: Machine) -> None:
    ledger = begin(shared("one"))
    write_json(ledger.folder / "report" / "verdict.json", {"verdict": "a"})
    seen(ledger)
    assert ledger.mirror is not None
    assert json.loads(ledger.mirror.store.read("report/verdict.json") or b"") == {"verdict": "a"}
    assert "runs" not in [path.name for path in ledger.folder.iterdir()]
