from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from divfeat.tracking.values import MAX_KEY, MAX_PARAM, Point, clean_key, plain, points, short_params


@given(st.text(max_size=300))
def test_mlflow_takes_every_clean_key(key: str) -> None:
    _validate_metric_name(clean_key(key))
    _validate_param_name(clean_key(key))
    assert 0 < len(clean_key(key)) <= MAX_KEY


@pytest.mark.parametrize("key", ["train/loss", "val/accuracy_minor", "cone/occupancy", "a.b-c d"])
def test_our_own_names_stay_as_they_are(key: str) -> None:
    assert clean_key(key) == key


def test_params_are_flat_short_and_say_what_they_leave_out() -> None:
    config = {"a": {"b": {"c": 1}, "on": True}, "few": [0.5, 0.25], "name": "x", "none": None}
    assert short_params(config) == (
        {"a.b.c": "1", "a.on": "true", "few": "[0.5, 0.25]", "name": "x", "none": "null"},
        False,
    )
    params, cut = short_params({"tau": torch.arange(100.0)})
    assert params == {"tau": "[0.0, 1.0, ..., 99.0] (100 values)"}
    assert cut
    params, cut = short_params({"text": "x" * 7000})
    assert len(params["text"]) == MAX_PARAM
    assert cut


def test_points_keep_nan_and_have_no_infinity() -> None:
    metrics = {"a": 1, "b": math.nan, "c": -math.inf, "d": None, "e": "text", "f": np.float32(0.5), "g": True}
    got = {point.key: point for point in points([{"epoch": 2, "time": 5, "metrics": metrics}])}
    assert got["a"] == Point("a", 2, 5, 1.0)
    assert got["f"].value == 0.5
    assert got["g"].value == 1.0
    assert math.isnan(got["b"].value)
    assert math.isnan(got["c"].value)
    assert set(got) == {"a", "b", "c", "f", "g"}


def test_plain_is_strict_json() -> None:
    tree = {1: (np.int64(3), torch.tensor([1.5])), "nan": math.nan, "path": {"x"}, "f": np.float64(2.0)}
    assert json.loads(json.dumps(plain(tree), allow_nan=False)) == {
        "1": [3, [1.5]],
        "nan": None,
        "path": ["x"],
        "f": 2.0,
    }
