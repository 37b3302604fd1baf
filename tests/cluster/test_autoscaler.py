"""What an autoscaler's file says, which process names it, and counting with nodes that are yet to come."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from divfeat.cluster import autoscaler
from divfeat.cluster.autoscaler import Autoscaler, _read, find_autoscaler
from divfeat.cluster.capacity import DRIVER_CPUS, DRIVER_RESOURCE, Capacity
from divfeat.cluster.executor import RayExecutor
from divfeat.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "10.0.0.1:6379"


def test_the_file_of_the_repository_is_read() -> None:
    found = _read(ROOT / "cluster.yaml")
    assert found.types == {name: (4.0, 1.0, 8) for name in ("spot-t4", "spot-l4", "spot-a10g")}
    assert found.nodes == [(4.0, 1.0)] * 8  # of all types together


@pytest.mark.parametrize(
    ("head", "types", "at_most", "nodes"),
    [
        ("h", {"h": {"resources": {"CPU": 9}}, "w": {"resources": {"CPU": 2}, "max_workers": 3}}, 2, [(2, 0)] * 2),
        ("h", {"h": {}, "w": {"resources": {"CPU": 2}}}, 2, [(2, 0)] * 2),
        ("h", {"h": {}, "a": {"resources": {"CPU": 8}, "max_workers": 1}, "b": {"resources": {"GPU": 1}, "max_workers": 2}}, 9,
         [(0, 1), (0, 1), (8, 0)]),
        ("h", {"h": {}, "w": {"resources": {}, "max_workers": 1}}, None, [(0, 0)]),
        ("h", {"h": {}}, 4, []),
    ],
)  # fmt: skip
def test_nodes_that_may_come(tmp_path: Path, head, types, at_most, nodes) -> None:
    made = {"head_node_type": head, "available_node_types": types} | (
        {} if at_most is None else {"max_workers": at_most}
    )
    (tmp_path / "file").write_text(yaml.safe_dump(made))
    assert _read(tmp_path / "file").nodes == nodes


@pytest.mark.parametrize(
    "text", ["", "- 1", "head_node_type: h", "a: [", "{head_node_type: h, available_node_types: {w: 3}}"]
)
def test_a_file_that_says_nothing_leaves_the_types_unknown(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    assert _read(tmp_path / "file") == _read(tmp_path / "none") == Autoscaler({})


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    context = SimpleNamespace(gcs_address=ADDRESS)
    monkeypatch.setattr(autoscaler.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(autoscaler, "_reports", lambda address: False)
    monkeypatch.setattr(
        autoscaler.ray, "nodes", lambda: [{"Alive": True, "Labels": {"ray.io/node-group": "headgroup"}}]
    )
    return tmp_path


def runs(processes: Path, *words: str) -> None:
    folder = processes / str(100 + len(list(processes.iterdir())))
    folder.mkdir()
    (folder / "cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0")


@pytest.mark.parametrize("kind", ["_private", "v2"])
def test_the_process_that_scales_names_its_file(processes: Path, kind: str) -> None:
    program = f"/site-packages/ray/autoscaler/{kind}/monitor.py"
    runs(processes, "python", program, "--gcs-address=10.0.0.9:6379", "--autoscaling-config=/other")
    assert find_autoscaler(processes) is None  # another cluster's
    runs(processes, "python", program, f"--gcs-address={ADDRESS}", f"--autoscaling-config={ROOT / 'cluster.yaml'}")
    found = find_autoscaler(processes)
    assert found is not None and "spot-t4" in found.types
    assert "at most" not in str(found) and "may add 8 nodes: 8 x spot-t4 (4 CPUs and 1 GPUs)" in str(found)


def test_a_cluster_that_was_started_by_hand_has_none(processes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoscaler, "_reports", lambda address: True)  # it reports nodes, and adds none
    runs(processes, "python", "/site-packages/ray/autoscaler/v2/monitor.py", f"--gcs-address={ADDRESS}")
    assert find_autoscaler(processes) is None


def test_one_in_a_container_of_its_own_is_known_by_its_reports(
    processes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoscaler, "_reports", lambda address: address == ADDRESS)
    assert find_autoscaler(processes) == Autoscaler({})
    monkeypatch.setattr(autoscaler.ray, "nodes", lambda: [{"Alive": True, "Labels": {}}])
    assert find_autoscaler(processes) is None  # nodes of no type: started by hand, seen from another machine


# --- counting ---


@given(
    nodes=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), max_size=4),
    more=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), max_size=4),
    workers=st.integers(1, 4),
    cpus=st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    gpus=st.sampled_from([0.0, 0.25, 1.0]),
    drivers=st.none() | st.integers(0, 5),
    fewest=st.none() | st.integers(1, 4),
)
def test_more_nodes_never_hold_fewer_trials(nodes, more, workers, cpus, gpus, drivers, fewest) -> None:
    fewest = None if fewest is None else min(fewest, workers)
    now = Capacity(nodes, workers, cpus, gpus, drivers, fewest)
    assert now.trials >= Capacity(nodes, workers, cpus, gpus, drivers).trials
    assert 0 <= now.trials <= now.with_more(more).trials
    if workers > 1 and drivers is not None:
        assert now.trials <= drivers


def test_drivers_have_places_of_their_own_where_the_cluster_has_safe_nodes() -> None:
    nodes = [(0.0, 0.0), (2.0, 0.0)]
    assert Capacity(nodes, 2, 1.0, 0.0).trials == 0  # no room for the process that drives them
    safe = Capacity(nodes, 2, 1.0, 0.0, drivers=1)
    assert safe.trials == 1
    assert safe.bundles == [{"CPU": 1.0}, {"CPU": 1.0}, {DRIVER_RESOURCE: 1.0}]
    # With fewer workers one trial goes on; where a whole one fits, that many whole ones do.
    few = [(0.0, 0.0), (1.0, 0.0)]
    assert Capacity(few, 2, 1.0, 0.0, drivers=2).trials == 0
    assert Capacity(few, 2, 1.0, 0.0, drivers=2, fewest=1).trials == 1
    assert Capacity(few * 4, 2, 1.0, 0.0, drivers=2, fewest=1).trials == 2
    assert Capacity(few, 3, 1.0, 0.0, drivers=2, fewest=2).trials == 0
    assert Capacity(few, 2, 1.0, 0.0, drivers=0, fewest=1).trials == 0
    assert "or 1 while nodes are missing" in Capacity(few, 2, 1.0, 0.0, fewest=1).needs
    assert Capacity(nodes, 2, 1.0, 0.5).bundles == [{"CPU": 1.0, "GPU": 0.5}] * 2 + [{"CPU": DRIVER_CPUS}]
    assert Capacity(nodes, 1, 1.0, 0.0, drivers=1).bundles == [{"CPU": 1.0}]
    with pytest.raises(
        ConfigError, match=f"1 {DRIVER_RESOURCE} to drive them, the nodes have .* and 0 {DRIVER_RESOURCE}"
    ):
        Capacity(nodes, 2, 1.0, 0.0, drivers=0).concurrency(None)


def executor(nodes, scaler, *, wait=0.0, workers=1, cpus=1.0) -> RayExecutor:
    made = object.__new__(RayExecutor)
    made._scaler, made._wait_seconds = scaler, wait
    made.capacity = lambda head_only=False: Capacity(nodes[:1] if head_only else nodes, workers, cpus, 0.0)
    return made


SCALER = Autoscaler({"w": (2.0, 0.0, 3)}, 3)


@pytest.mark.parametrize(
    ("nodes", "scaler", "wait", "asked", "fit"),
    [
        ([(0, 0)], SCALER, 9, None, 6),
        ([(0, 0)], SCALER, 9, 4, 4),
        ([(0, 0), (2, 0)], SCALER, 9, None, 6),  # one of the three has come
        ([(0, 0), (20, 0)], SCALER, 9, None, 20),
        ([(0, 0)], Autoscaler({}), 9, None, 1),  # nobody knows what may come
        ([(0, 0), (2, 0)], Autoscaler({}), 9, None, 2),
        ([(0, 0)], Autoscaler({}), 9, 7, 7),
        ([(0, 0)], None, 9, 2, 2),  # nodes may join by other hands
        ([(3, 0)], None, 0, None, 3),
    ],
)
def test_trials_at_a_time_count_what_may_come(nodes, scaler, wait, asked, fit) -> None:
    assert executor(nodes, scaler, wait=wait)._concurrency(asked) == fit


def test_what_no_node_could_ever_hold_is_told_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"no trial fits: a trial takes 4 CPUs .* may add 3 nodes: 3 x w .*larger nodes"
    ):
        executor([(0, 0)], SCALER, wait=9, cpus=4.0)._concurrency(None)
    with pytest.raises(ConfigError, match=r"--max-concurrent 7 does not fit.*at most 6 fit"):
        executor([(0, 0)], SCALER, wait=9)._concurrency(7)
    with pytest.raises(ConfigError, match=r"no trial fits.*lower --workers-per-trial"):
        executor([(0, 0)], None)._concurrency(None)


@pytest.mark.parametrize(("fewest", "found"), [(1, True), (None, False)])
def test_a_wait_ends_when_the_fewest_workers_have_a_place(fewest, found, monkeypatch) -> None:
    """What is asked for is a place for all of them, which does not come."""

    class Asked:
        def wait(self, seconds: float) -> bool:
            nodes.append((1.0, 0.0))
            return False

    nodes: list[tuple[float, float]] = [(0.0, 0.0)]
    asked, looks = [], []
    monkeypatch.setattr(autoscaler, "placement_group", lambda bundles, strategy: asked.append(bundles) or Asked())
    monkeypatch.setattr(autoscaler, "remove_placement_group", lambda group: None)

    def capacity() -> Capacity:
        return Capacity(nodes[:3], 4, 1.0, 0.0, drivers=1, fewest=fewest)

    def stopping() -> bool:
        looks.append(1)
        return len(looks) > 5

    assert autoscaler.wait_for_trial(capacity, None, 60.0, print, stopping) is found
    assert len(asked[0]) == 5  # all workers, and what drives them
