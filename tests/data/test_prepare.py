"""What each role may see: published set, validation rules, hashes, and classes without a sample."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.config import DataConfig, deciding
from divfeat.data import prepare as module
from divfeat.data.images import ImageSet
from divfeat.data.prepare import PreparedData, prepare
from divfeat.errors import ConfigError, DataError
from divfeat.settings import make_configs
from divfeat.validation import build

FINE, COARSE = 6, 3


def images(counts: list[int], salt: int = 0, side: int = 8, **changes: Any) -> ImageSet:
    """Images whose pixels are their row number (and `salt` in the last), labels in a shuffled order."""
    fine = np.random.default_rng(7).permutation(np.repeat(np.arange(FINE), counts)).astype(np.int64)
    pixels = np.zeros((len(fine), 1, side, side), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(len(fine)) % 256
    pixels[:, 0, 0, 1] = np.arange(len(fine)) // 256
    pixels[:, 0, 7, 7] = salt
    whole = ImageSet(pixels, fine, fine // 2, tuple("abcdef"), ("ab", "cd", "ef"))
    return dataclasses.replace(whole, **changes)


def rows(part: ImageSet) -> list[int]:
    """Row numbers in the file, read back from the pixels."""
    return (part.images[:, 0, 0, 0].astype(int) + 256 * part.images[:, 0, 0, 1].astype(int)).tolist()


class Source:
    """Stands for the files; `asked` records which were opened."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, counts: list[int], test_counts: list[int] | None = None
    ) -> None:
        self.sets = {"train": images(counts), "test": images(test_counts or [4] * FINE, salt=1)}
        self.asked: list[str] = []
        monkeypatch.setattr(module, "load_source", self.load)

    def load(self, spec: str, *, split: str, **settings: Any) -> ImageSet:
        self.asked.append(split)
        return self.sets[split]


def config(**settings: Any) -> DataConfig:
    return build(DataConfig, {"source": "made", **settings})


def both(settings: DataConfig) -> tuple[PreparedData, PreparedData]:
    return prepare(settings, "search"), prepare(settings, "confirm")


def check_search(source: Source, search: PreparedData, confirm: PreparedData) -> None:
    """What holds under every rule: parts are disjoint and inside the training file, train inside the published set."""
    train, val, published = rows(search.train), rows(search.evaluation), rows(confirm.train)
    assert len(set(train)) == len(train) and len(set(val)) == len(val)
    assert not set(train) & set(val)
    assert set(train) <= set(published)
    assert np.array_equal(search.train.fine, source.sets["train"].fine[train])
    assert np.array_equal(search.class_counts, confirm.class_counts)  # groups and cones are the same in both roles
    assert np.array_equal(confirm.class_counts, np.bincount(confirm.train_labels, minlength=len(confirm.class_counts)))
    assert confirm.evaluation is source.sets["test"]
    assert (search.evaluation_name, confirm.evaluation_name) == ("val", "test")
    assert len({search.split_hash, confirm.split_hash}) == 2


# --- which files ------------------------------------------------------------------------------------------------------


RULES = {
    "per class": {"val_per_class": 5},
    "fraction": {"val_fraction": 0.2},
    "subset": {"val_per_class": 5, "train_size": 60},
    "tail": {"val_per_class": 5, "imbalance": 4, "n_max": 20, "boundary": 10},
    "step": {"val_per_class": 5, "imbalance": 4, "n_max": 20, "boundary": 10, "tail": "step"},
}


@pytest.mark.parametrize("rule", RULES)
def test_a_search_never_opens_the_test_file(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    source = Source(monkeypatch, [40] * FINE)
    prepare(config(**RULES[rule]), "search")
    assert source.asked == ["train"]
    prepare(config(**RULES[rule]), "confirm")
    assert source.asked == ["train", "train", "test"]


def test_settings_reach_the_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def load(spec: str, **settings: Any) -> ImageSet:
        seen.append({"spec": spec, **settings})
        return images([10] * FINE)

    monkeypatch.setattr(module, "load_source", load)
    columns = {"image_column": "photo", "fine_column": "species", "coarse_column": None}
    prepare(config(val_per_class=2, download=True, image_size=16, crop_bottom=3, **columns), "confirm", root=tmp_path)
    lists = dict.fromkeys(("train_list", "val_list", "test_list"))
    common = {"spec": "made", "root": tmp_path, "download": True, "image_size": 16, "crop_bottom": 3}
    common |= columns | lists
    assert seen == [{**common, "split": "train"}, {**common, "split": "test"}]


# --- which images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "held"), [({"val_per_class": 5}, [5] * FINE), ({"val_fraction": 0.2}, [4, 6, 8, 2, 1, 5])]
)
def test_a_whole_set_gives_validation_from_itself(
    monkeypatch: pytest.MonkeyPatch, rule: dict[str, Any], held: list[int]
) -> None:
    counts = [20, 30, 40, 8, 6, 25]
    source = Source(monkeypatch, counts)
    search, confirm = both(config(**rule))
    check_search(source, search, confirm)
    assert sorted(rows(confirm.train)) == list(range(sum(counts)))
    assert sorted(rows(search.train) + rows(search.evaluation)) == list(range(sum(counts)))
    assert np.bincount(search.evaluation.fine).tolist() == held
    assert "fewer images" in search.note and confirm.note == search.note


def test_a_subset_takes_validation_from_the_images_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(monkeypatch, [40] * FINE)
    search, confirm = both(config(train_size=90, val_per_class=10))
    check_search(source, search, confirm)
    assert rows(search.train) == rows(confirm.train)  # the search trains on all that the confirmation trains on
    assert np.bincount(search.train.fine).tolist() == [15] * FINE
    assert np.bincount(search.evaluation.fine).tolist() == [10] * FINE
    assert "left out" in search.note


@pytest.mark.parametrize("left", [3, 9, 10])
def test_a_subset_that_leaves_too_few_cuts_validation_from_itself(monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    source = Source(monkeypatch, [40] * FINE)
    search, confirm = both(config(train_size=FINE * (40 - left), val_per_class=10))
    check_search(source, search, confirm)
    assert np.bincount(confirm.train.fine).tolist() == [40 - left] * FINE
    assert np.bincount(search.evaluation.fine).tolist() == [10] * FINE
    assert sorted(rows(search.train) + rows(search.evaluation)) == sorted(rows(confirm.train))
    assert "fewer images" in search.note


def test_a_subset_with_a_fraction_cuts_validation_from_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(monkeypatch, [40] * FINE)
    search, confirm = both(config(train_size=120, val_fraction=0.25))
    check_search(source, search, confirm)
    assert np.bincount(search.evaluation.fine).tolist() == [5] * FINE
    assert len(search.train) == 90 and len(confirm.train) == 120


def test_a_long_tail_follows_the_published_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(monkeypatch, [60] * FINE)
    search, confirm = both(config(imbalance=10, val_per_class=10, n_max=40, boundary=10))
    check_search(source, search, confirm)
    expected = [int(40 * 0.1 ** (k / (FINE - 1))) for k in range(FINE)]
    assert confirm.class_counts.tolist() == expected
    assert np.bincount(search.evaluation.fine).tolist() == [10] * FINE
    assert rows(search.train) == rows(confirm.train)
    assert not set(rows(search.evaluation)) & set(rows(confirm.train))
    assert "left out" in search.note


def test_a_step_halves_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(monkeypatch, [60] * FINE)
    search, confirm = both(config(imbalance=10, tail="step", val_per_class=10, n_max=40, boundary=10))
    check_search(source, search, confirm)
    assert confirm.class_counts.tolist() == [40] * 3 + [4] * 3
    assert np.bincount(search.evaluation.fine).tolist() == [10] * FINE


def test_a_tail_that_leaves_too_few_borrows_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(monkeypatch, [60] * FINE)
    search, confirm = both(config(imbalance=10, val_per_class=10))
    check_search(source, search, confirm)
    total = len(confirm.train)
    assert confirm.class_counts[0] == 60  # every image of the head, so its validation comes from there
    assert np.bincount(search.train.fine).tolist()[0] == 50
    assert search.class_counts[0] == 60  # thresholds follow the published count all the same
    assert "left out, and where a class left too few, from its own" in search.note
    assert f"without 10 of the {total} published" in search.note


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(12, 40), min_size=FINE, max_size=FINE),
    per_class=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_parts_are_disjoint_whatever_the_counts(counts: list[int], per_class: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        source = Source(monkeypatch, counts)
        for rule in ({}, {"train_size": sum(counts) // 2}, {"imbalance": 3, "n_max": 12, "boundary": 5}):
            search, confirm = both(config(val_per_class=per_class, seed=seed, **rule))
            check_search(source, search, confirm)
            assert np.bincount(search.evaluation.fine, minlength=FINE).tolist() == [per_class] * FINE


def test_coarse_levels_count_and_name_coarse_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    Source(monkeypatch, [20, 30, 10, 10, 15, 15])
    search, _ = both(config(train_level="coarse", val_per_class=3))
    assert search.class_counts.tolist() == [50, 20, 30]
    assert search.class_names == ("ab", "cd", "ef")
    assert np.array_equal(search.train_labels, search.train.coarse)
    fine, _ = both(config(val_per_class=3))
    assert fine.class_names == tuple("abcdef")
    assert np.array_equal(fine.train_labels, fine.train.fine)


# --- hashes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_the_hash_follows_seed_and_rule(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    Source(monkeypatch, [40] * FINE)
    first = prepare(config(**RULES[rule]), "search")
    again = prepare(config(**RULES[rule]), "search")
    assert again.split_hash == first.split_hash
    assert rows(again.train) == rows(first.train) and rows(again.evaluation) == rows(first.evaluation)
    other = prepare(config(**RULES[rule], seed=1), "search")
    assert other.split_hash != first.split_hash
    assert rows(other.evaluation) != rows(first.evaluation)


def test_the_hash_follows_the_content(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(monkeypatch, [40] * FINE)
    search, confirm = both(config(val_per_class=5))
    source.sets["test"] = images([4] * FINE, salt=2)
    assert prepare(config(val_per_class=5), "search").split_hash == search.split_hash  # it does not know the test set
    assert prepare(config(val_per_class=5), "confirm").split_hash != confirm.split_hash
    source.sets["train"] = images([40] * FINE, salt=3)
    assert prepare(config(val_per_class=5), "search").split_hash != search.split_hash


def test_a_confirmation_does_not_depend_on_the_validation_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    Source(monkeypatch, [40] * FINE)
    hashes = {prepare(config(**rule), "confirm").split_hash for rule in (RULES["per class"], RULES["fraction"])}
    assert len(hashes) == 1


@pytest.mark.parametrize("rule", RULES)
def test_a_training_set_other_than_expected_is_refused(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    """The hash is of rows and labels: one number for both roles, and for any way to validate."""
    source = Source(monkeypatch, [40] * FINE)
    search, confirm = both(config(**RULES[rule]))
    found = search.published_hash
    assert found == confirm.published_hash and len(found) == 16
    expected = {**RULES[rule], "expected_split": found}
    for role in ("search", "confirm"):
        assert prepare(config(**expected), role).split_hash == {"search": search, "confirm": confirm}[role].split_hash
    whole = source.sets["train"]
    moved = np.random.default_rng(0).permutation(len(whole))
    source.sets["train"] = dataclasses.replace(whole, fine=whole.fine[moved], coarse=whole.fine[moved] // 2)
    other = prepare(config(**RULES[rule]), "search").published_hash
    assert other != found
    for role in ("search", "confirm"):
        with pytest.raises(DataError, match=f"the hash {other} .* but data.expected_split={found}: other images, or"):
            prepare(config(**expected), role)


def test_columns_count_only_where_they_are_named() -> None:
    """Keys of studies from before there were such settings stay what they are."""
    plain = config(val_per_class=5)
    assert deciding({"data": plain.to_dict()})["data"].keys().isdisjoint(plain.columns)
    named = config(val_per_class=5, fine_column="species")
    assert deciding({"data": named.to_dict()})["data"].items() >= {("fine_column", "species")}
    assert "image_column" not in deciding({"data": named.to_dict()})["data"]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_class_with_too_few_images_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Source(monkeypatch, [20, 20, 5, 20, 20, 20])
    with pytest.raises(DataError, match="class 2 has 5 images"):
        prepare(config(val_per_class=5), "search")


@pytest.mark.parametrize("counts", [[20, 20, 0, 20, 20, 20], [20, 20, 20, 20, 20, 0]])
@pytest.mark.parametrize("role", ["search", "confirm"])
@pytest.mark.parametrize("level", ["fine", "coarse"])
def test_a_class_without_any_image_is_refused(
    monkeypatch: pytest.MonkeyPatch, counts: list[int], role: Any, level: str
) -> None:
    Source(monkeypatch, counts)
    with pytest.raises(DataError, match="class"):
        prepare(config(val_per_class=5, train_level=level), role)


@pytest.mark.parametrize("role", ["search", "confirm"])
def test_a_tail_of_coarse_classes_may_not_lose_a_fine_one(monkeypatch: pytest.MonkeyPatch, role: Any) -> None:
    """The probe needs every fine class; the tail is drawn by the trained, coarse labels."""
    Source(monkeypatch, [40, 40, 40, 40, 70, 2])
    settings = {"train_level": "coarse", "imbalance": 10, "n_max": 30, "val_per_class": 3, "boundary": 5}
    with pytest.raises(DataError, match=r"fine class '[a-f]' of made has no (training|validation) image; raise"):
        prepare(config(**settings), role)
    found = prepare(config(**settings, probe_level="coarse"), role)  # without fine labels there is nothing to lose
    assert found.class_counts.tolist() == [30, 9, 3]


def test_a_tail_that_asks_for_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    Source(monkeypatch, [40] * FINE)
    with pytest.raises(DataError, match=r"class 0 has 40 images where imbalance 4 asks for 50"):
        prepare(config(imbalance=4, n_max=50, val_per_class=3), "search")
    with pytest.raises(DataError, match=r"val_per_class .*not data.val_fraction"):
        prepare(config(imbalance=4, val_fraction=0.2), "search")


@pytest.mark.parametrize(("boundary", "which"), [(39, None), (40, "every class"), (10, None), (9, "no class")])
@pytest.mark.parametrize("tail", ["exponential", "step"])
def test_a_boundary_beside_all_classes_of_a_tail(
    monkeypatch: pytest.MonkeyPatch, boundary: int, which: str | None, tail: str
) -> None:
    Source(monkeypatch, [60] * FINE)
    settings = config(imbalance=4, n_max=40, val_per_class=3, boundary=boundary, tail=tail)
    if which is None:
        assert prepare(settings, "search").class_counts.tolist()[-1] == 10
        return
    message = f"data.boundary={boundary} makes {which} of this long tail minor .classes have 10 to 40 .* from 10 to 39"
    with pytest.raises(ConfigError, match=message):
        prepare(settings, "search")


def test_without_a_tail_there_is_no_boundary_to_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    Source(monkeypatch, [40] * FINE)
    prepare(config(val_per_class=3, boundary=50), "search")
    prepare(config(val_per_class=3, boundary=50, imbalance=1), "search")  # no class is larger than another


@pytest.mark.parametrize(
    ("smallest", "boundary", "which"), [(20, 50, "every class"), (20, 5, "no class"), (20, 30, None), (30, 50, None)]
)
@pytest.mark.parametrize("source", [{}, {"source": "lists:made", "train_list": "train.txt"}])
def test_uneven_classes_of_ones_own_have_a_note_where_all_or_none_are_minor(
    monkeypatch: pytest.MonkeyPatch, source: dict[str, str], smallest: int, boundary: int, which: str | None
) -> None:
    """Lists are how ImageNet-LT comes; nobody asks for an imbalance there, nor for a boundary."""
    Source(monkeypatch, [40, 40, 40, 40, 40, smallest])
    note = prepare(config(train_level="fine", val_per_class=3, boundary=boundary, **source), "search").note
    said = f"data.boundary={boundary} makes {which} minor (classes have {smallest} to 40 training images), so there are no "
    said += f"accuracies of major and minor classes; set data.boundary from {smallest} to 39 for them"
    assert (said in note) if which else ("minor" not in note)


def test_coarse_labels_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(monkeypatch, [40] * FINE)
    whole = source.sets["train"]
    source.sets["train"] = ImageSet(whole.images, whole.fine, None, whole.fine_names, None)
    for setting in ("train_level", "probe_level"):
        with pytest.raises(DataError, match="no coarse labels"):
            prepare(config(val_per_class=3, **{setting: "coarse"}), "search")


NO_COARSE = {"coarse": None, "coarse_names": None}
MOVED = np.array([1, 0, 0, 1, 2, 2])  # the coarse class of each fine one, b and c's parents not as in training


@pytest.mark.parametrize(
    ("level", "test", "message"),
    [
        ("fine", {"fine_names": tuple("abcdfe")}, "made: train and test name their fine classes differently"),
        ("coarse", {"coarse_names": ("cd", "ab", "ef")}, "made: train and test name their coarse classes differently"),
        ("coarse", NO_COARSE, "the test split of made: this set of 6 classes has no coarse labels"),
        ("coarse", {"counts": [4, 4, 4, 4, 0, 4]}, "fine class 'e' of made has no test image; add some"),
        ("coarse", {"parents": MOVED}, "made: fine class 'a' lies under 'ab' in train but under 'cd' in test"),
        (
            "fine",
            {"side": 12},
            r"made: images .* are \[1, 12, 12\] in test but \[1, 8, 8\] in train; set data.image_size",
        ),
    ],
)
def test_the_test_set_must_mean_what_the_training_set_means(
    monkeypatch: pytest.MonkeyPatch, level: str, test: dict[str, Any], message: str
) -> None:
    source = Source(monkeypatch, [40] * FINE)
    test = dict(test)
    made = images(test.pop("counts", [4] * FINE), side=test.pop("side", 8))
    if "parents" in test:
        test["coarse"] = test.pop("parents")[made.fine]
    source.sets["test"] = dataclasses.replace(made, **test)
    with pytest.raises(DataError, match=message):
        prepare(config(val_per_class=3, train_level=level), "confirm")


def test_a_test_set_may_differ_in_labels_that_nobody_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(monkeypatch, [40] * FINE)
    source.sets["test"] = images([4] * FINE, **NO_COARSE)
    prepare(config(val_per_class=3), "confirm")
    source.sets["test"] = images([4, 4, 0, 4, 4, 4], fine_names=tuple("abcdfe"))
    prepare(config(val_per_class=3, train_level="coarse", probe_level="coarse"), "confirm")


def test_the_digits_of_the_default_preset() -> None:
    search, confirm = both(build(DataConfig, {"source": "digits", "train_level": "coarse", "val_per_class": 36}))
    assert np.bincount(search.evaluation.fine).tolist() == [36] * 10
    assert len(search.train) + len(search.evaluation) == len(confirm.train) == 1438
    assert len(confirm.evaluation) == 359
    assert search.class_names == ("0-1", "2-3", "4-5", "6-7", "8-9")


STEP = {"imbalance": 10, "tail": "step", "boundary": 60, "expected_split": "5758df812513d874"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "changes", "total"),
    [
        ("cifar10-lt", {"source": "parquet:cifar10", "expected_split": "c92ead125191a345"}, 12_406),
        ("tin100-lt", {}, 10_847),  # its hash is in the preset
        ("tin100-lt", STEP, 27_500),
    ],
)
def test_long_tails_of_real_images(real_data: Path, preset: str, changes: dict[str, Any], total: int) -> None:
    settings = make_configs(preset, overrides={"data": changes})[0].data
    search = prepare(settings, "search", root=real_data)
    assert search.published_hash == settings.expected_split
    assert search.class_counts.sum() == total
    classes = len(search.class_counts)
    assert np.bincount(search.evaluation.fine).tolist() == [settings.val_per_class] * classes
    head = search.class_counts.max()
    assert np.bincount(search.train.fine)[0] == head - settings.val_per_class  # type: ignore[operator]
