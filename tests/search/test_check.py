"""What a study finds wrong, or settles, before anything is trained: a tail that comes as list files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from divfeat.errors import ConfigError, DataError
from divfeat.experiment import build
from divfeat.search.budget import Limits
from divfeat.search.check import check_study
from divfeat.search.jobs import PAPER_MINOR, baseline, experiment
from divfeat.search.plan import Plan, make_plan
from divfeat.search.study import Study
from divfeat.search.subjects import tried_first
from divfeat.study_config import ExecutionConfig
from divfeat.thresholds import PAPER_ANGLE
from tests.search.samples import make_study

#: Training images of each class; at the usual 50 one class of three is major.
COUNTS = (60, 20, 6)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 8x8 images with their lists."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, counts in (("train", COUNTS), ("val", (3, 3, 3)), ("test", (3, 3, 3))):
        lines = []
        for k, count in enumerate(counts):
            for i in range(count):
                lines.append(f"{split}_{k}_{i}.png {k}\n")
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{split}_{k}_{i}.png")
        (folder / f"{split}.txt").write_text("".join(lines))
    return folder


def study_on(images: Path, family: str, boundary: int = 50, **search: Any) -> Study:
    data = {
        "source": f"lists:{images}",
        "train_level": "fine",
        "val_per_class": None,
        "boundary": boundary,
        **{f"{split}_list": f"{split}.txt" for split in ("train", "val", "test")},
    }
    config = make_study(data=data, search={"family": family, **search}, protocol={"grid_points": 0})
    return Study(config, ExecutionConfig(), images / "study", "study")


@pytest.mark.parametrize(
    ("data", "objectives", "message"),
    [
        ({}, ["severity"], r"objective 'severity' needs a tree of the classes: set data.hierarchy"),
        ({"hierarchy": "coarse"}, ["accuracy", "distance_20"], r"'distance_20' looks at the first 20 of only 10 classes"),
        ({"hierarchy": "coarse", "train_level": "coarse"}, ["severity"], r"coarse labels have no tree above them"),
        ({"hierarchy": "nowhere.json"}, ["severity"], r"data.hierarchy=nowhere.json: .*no tree of that name"),
    ],
)  # fmt: skip
def test_objectives_over_a_tree_are_checked_before_training(data: dict, objectives: list[str], message: str) -> None:
    study = make_study(data={"train_level": "fine"} | data, search={"objectives": objectives})
    with pytest.raises((ConfigError, DataError), match=message):
        check_study(study, trials=20)


def test_a_searched_corner_that_no_tau_minus_fits_is_named() -> None:
    """Axes of near classes come nearer as gamma falls, and a cone of 85 degrees is wider than that."""
    settings = {"releases": ["theorem"]}
    message = r"closest axes \d+\.\d deg.*\(told of 'hinge_haf theorem 85.0 deg gamma=0.5 .*search.high"
    with pytest.raises(ConfigError, match=message):
        check_study(make_study("digits-hierarchy", search=settings), trials=20)
    with pytest.raises(ConfigError, match=r"^unknown backbone 'nope'.*wrn<depth>_<k>$"):  # of no corner
        check_study(make_study("digits-hierarchy", search=settings, model={"backbone": "nope"}), trials=20)
    narrow = make_study("digits-hierarchy", search=settings | {"high": 1.15})
    check_study(narrow, trials=20)
    # Half the angle between axes, beyond which the loss cannot fall below log K, is at least half of that.
    assert max(params["tau"] for params in tried_first(narrow)) == pytest.approx(0.575)
    flat = tried_first(make_study(search=settings))
    assert max(params["tau"] for params in flat) == pytest.approx(np.pi / 4)


def test_constraints_over_a_tree_are_checked_before_training() -> None:
    study = make_study(search={"constraints": [{"metric": "severity", "at_most": 2}]})
    with pytest.raises(ConfigError, match=r"constraint 'severity.*' needs a tree of the classes"):
        check_study(study, trials=20)


@pytest.mark.parametrize(
    ("family", "refine", "degrees"),
    [
        ("major_minor", [], (0, 40, 40)),
        ("count_curve", [], (0, 40, 40)),
        ("free_boundary", ["global"], (0, 40, 40)),
        ("each_3", ["count_curve"], (0, 40, 40)),
        ("global", [], (65, 65, 65)),
        ("each_3", [], (65, 65, 65)),
        ("quantile", [], (65, 65, 65)),
    ],
)
def test_fixed_cones_follow_the_counts_of_a_listed_tail(
    images: Path, family: str, refine: list[str], degrees: tuple[int, ...]
) -> None:
    """As they do on a tail that divfeat cuts, wherever the search says that there is one."""
    study = study_on(images, family, refine=refine)
    data = study.check()
    assert tuple(data.class_counts) == COUNTS
    method = build(experiment(study.config, baseline("hinge_fixed", study.config), 0), data)[1]
    expected = {0: 0.0, 40: PAPER_MINOR, 65: PAPER_ANGLE}
    assert method.tau_plus.tolist() == pytest.approx([expected[angle] for angle in degrees])


def test_a_baseline_that_cannot_be_built_is_named(images: Path) -> None:
    told = r"baseline 'hinge_fixed' of protocol.baselines: .*every class is minor at data.boundary=60 .*6 to 60"
    with pytest.raises(ConfigError, match=told):
        study_on(images, "count_curve", boundary=60).check()


@pytest.mark.parametrize(("epochs", "refused"), [(9, True), (10, False)])
def test_a_search_that_could_close_the_cones_in_every_epoch_is_told_before_it(epochs: int, refused: bool) -> None:
    """Each share goes to 0.45: of 9 epochs none begins in the tenth that both leave, of 10 the sixth does."""
    changes = {"train": {"epochs": epochs, "warmup_epochs": 0}, "search": {"own": ["closed_first", "closed_last"]}}
    config = make_study("digits-lt", **changes)
    if not refused:
        check_study(config, trials=20)
        return
    with pytest.raises(
        ConfigError, match=r"closed_first=0.45 and method.closed_last=0.45 leave none of train.epochs=9"
    ):
        check_study(config, trials=20)


def test_a_plan_says_what_is_known_of_the_data(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for boundary, said in ((60, True), (50, False)):
        make_plan(study_on(images, "global", boundary)).print(Console(width=200))
        assert ("makes every class minor (classes have" in capsys.readouterr().out) is said


# --- what a plan says of budgets ------------------------------------------------------------------------------------------


def a_plan(**changed):
    plan = dict(
        name="a", folder="f", runs={"search": 20, "select": 10, "confirm": 10}, seeds={}, epochs=1, images=1, scored=1,
        parameters=1, concurrent=2, trainings=40.0, seconds_per_run=360.0, scoring_seconds=60.0, bytes=1, confirm_seeds=5,
        baselines=1, detectable=1.0, noise=None, reserved=20.0,
    )  # fmt: skip
    return Plan(**plan | changed)


def test_a_plan_without_budgets_and_gpus_says_nothing_of_costs():
    assert a_plan().costs == []


@pytest.mark.parametrize(
    ("hours", "words"),
    [
        (9.0, "GPU-hour budget 9 GPU-hours: about 4 GPU-hours of it are reserved for what follows the search"),
        (6.0, "so that the search may end before its 20 trials"),
        (4.0, "too little for a verdict"),
    ],
)
def test_a_plan_says_what_the_budget_leaves_for_the_search(hours, words):
    lines = a_plan(gpus=2.0, limits=Limits(gpu_hours=hours)).costs
    assert lines[0] == "8 GPU-hours at 2 GPUs a trial"
    assert words in lines[1] and len(lines) == 2


def test_a_plan_reckons_with_prices():
    lines = a_plan(limits=Limits(cost=100.0, prices={"head": 0.1, "gpu": 3.0})).costs
    assert lines[0].startswith("cost about 12 with one trial a node of the dearest type (3 an hour)")
    assert lines[1] == "cost budget 100: about 6 of it are reserved for what follows the search"
