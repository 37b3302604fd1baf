from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from divfeat.errors import ConfigError
from divfeat.models import FeatureExtractor, build_extractor
from divfeat.tracking import Tracker
from tests.tracking.conftest import NAME, View, record, start

# The two lines of a user, in a process of its own; and where the divfeat that the model uses was found.
LOADER = """
import sys, numpy as np, mlflow
images = np.load(sys.argv[2])
model = mlflow.pyfunc.load_model(sys.argv[1])
features = model.predict(images)
np.savez(sys.argv[3], after=features, before=model.predict(images, params={"tap": "before"}))
print(sys.modules["divfeat.models"].__file__)
"""


def trained(seed: int = 0) -> FeatureExtractor:
    """An extractor whose running statistics and weights are not the initial ones."""
    extractor = build_extractor("digits_cnn", image_shape=(1, 8, 8), projector=True, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in extractor.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.01 * torch.rand(tensor.shape, generator=generator))
    return extractor.eval()


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)


def expected(extractor: FeatureExtractor, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the extractor itself gives before and after the projector, with the one thread of the other process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            before, after = extractor(torch.from_numpy(batch))
    finally:
        torch.set_num_threads(threads)
    return before.numpy(), after.numpy()


def begun(study_dir: Path, uri: str | None = None) -> Tracker:
    tracker = Tracker.open(study_dir, NAME, uri)
    tracker.study_run({})
    tracker.start_run("winner", **start())
    tracker.finish_run("winner", record())
    return tracker


def load_elsewhere(tracker: Tracker, uri: str, batch: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """Features from a new process that knows nothing but the tracking URI and the model's name."""
    cwd = folder / "elsewhere"
    cwd.mkdir()
    np.save(folder / "images.npy", batch)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"MLFLOW_TRACKING_URI": tracker.uri, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    env |= {"MLFLOW_DEFAULT_PREDICTION_DEVICE": "cpu"}
    command = [sys.executable, "-c", LOADER, uri, str(folder / "images.npy"), str(folder / "features.npz")]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "code/divfeat/models" in done.stdout.replace(os.sep, "/")  # the copy that the model carries
    assert "Warning" not in done.stderr
    assert list(cwd.iterdir()) == []
    with np.load(folder / "features.npz") as arrays:
        return dict(arrays)


@pytest.mark.slow
def test_round_trip_in_a_new_process_is_bit_equal_and_registered_once(study_dir: Path, tmp_path: Path) -> None:
    extractor, tracker = trained(), begun(study_dir)
    config, weights = extractor.config, extractor.state_dict()
    for _ in range(2):
        assert tracker.register_extractor("digits", config, weights, key="winner", tags={"tau": "0.5"}) == 1
        tracker = Tracker.open(study_dir, NAME)
    view = View(tracker)
    [version] = view.client.search_model_versions("name='digits'")
    assert version.run_id == view.run("winner").info.run_id
    assert version.tags == {"study": NAME, "trial_key": "winner", "tau": "0.5"}

    batch = images(200)
    got = load_elsewhere(tracker, "models:/digits/1", batch, tmp_path)
    before, after = expected(extractor, batch)
    assert got["after"].dtype == np.float32
    np.testing.assert_array_equal(got["after"], after)
    np.testing.assert_array_equal(got["before"], before)
    assert not np.array_equal(got["after"], build_extractor(**config).eval()(torch.from_numpy(batch)).after.detach())


def test_the_model_says_what_it_takes_and_carries_no_pickled_object(study_dir: Path) -> None:
    import mlflow.pyfunc

    extractor, tracker = trained(), begun(study_dir)
    tracker.register_extractor("digits", extractor.config, extractor.state_dict(), key="winner")
    folder = Path(View(tracker).run("winner").info.artifact_uri.removeprefix("file://").replace("%20", " "))
    names = {path.name for path in (folder / "model").rglob("*") if path.is_file()}
    assert {"MLmodel", "weights.pt", "config.json", "extractor_model.py", "requirements.txt"} <= names
    assert not any(name.endswith((".pkl", ".pickle", ".pyc")) for name in names)
    requirements = (folder / "model" / "requirements.txt").read_text()
    assert "torch==" in requirements
    assert "+" not in requirements

    model = mlflow.pyfunc.load_model(str(folder / "model"))
    [spec] = model.metadata.signature.inputs.inputs
    assert (spec.type, spec.shape) == (np.dtype("uint8"), (-1, 1, 8, 8))
    [spec] = model.metadata.signature.outputs.inputs
    assert (spec.type, spec.shape) == (np.dtype("float32"), (-1, extractor.feature_dim))
    assert model.predict(images(0)).shape == (0, extractor.feature_dim)
    np.testing.assert_array_equal(model.predict(images(200)), expected(extractor, images(200))[1])
    many = images(600)  # more than are taken at a time
    np.testing.assert_allclose(model.predict(many), expected(extractor, many)[1], rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="tap = 'middle'"):
        model.predict(images(1), params={"tap": "middle"})
    with pytest.raises(mlflow.exceptions.MlflowException, match="schema"):
        model.predict(images(1).astype(np.float64))


def test_registering_leaves_no_trace_in_the_process(
    study_dir: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    extractor, tracker = trained(), begun(study_dir)
    path, environment = list(sys.path), dict(os.environ)
    caplog.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tracker.register_extractor("digits", extractor.config, extractor.state_dict(), key="winner")
    assert (sys.path, dict(os.environ)) == (path, environment)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_another_run_is_another_version(study_dir: Path) -> None:
    extractor, tracker = trained(), begun(study_dir)
    tracker.start_run("other", **start(1))
    versions = [
        tracker.register_extractor("digits", extractor.config, extractor.state_dict(), key=key)
        for key in ("winner", "other", "winner")
    ]
    assert versions == [1, 2, 1]


def test_wrong_names_weights_and_runs_are_told(study_dir: Path) -> None:
    extractor, tracker = trained(), begun(study_dir)
    config, weights = extractor.config, extractor.state_dict()
    with pytest.raises(ConfigError, match="'a/b'"):
        tracker.register_extractor("a/b", config, weights, key="winner")
    with pytest.raises(KeyError, match="never begun"):
        tracker.register_extractor("a", config, weights, key="nobody")
    weights.popitem()
    with pytest.raises(ConfigError, match="do not fit the extractor 'digits_cnn'"):
        tracker.register_extractor("a", config, weights, key="winner")
