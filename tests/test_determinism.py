"""The same seed on the same machine gives the same bits: whole experiments in processes of their own, and after a kill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BASE = {
    "data": {"source": "digits", "imbalance": 10, "n_max": 60, "boundary": 20, "val_per_class": 8},
    "model": {"backbone": "digits_cnn"},
    "train": {"epochs": 3, "batch_size": 32, "lr": 0.1, "augment": "crop_flip", "mixup": 0.2, "sampling": "balanced"},
    "probe": {"strengths": [0.01, 0.1]},
}
GATE = {"name": "hinge_ce", "release": "gate", "thresholds": {"family": "global", "angles": {"tau": 1.0}}}
#: A gate and a method in two stages, both under augmentation and mixup.
METHODS = {"gate": GATE, "crt": {"name": "crt"}}

#: Trains as told, and prints everything that came out: floats as Python writes them, which loses no bit, and a hash of weights,
#: features and answers. With a step to die at, the process ends there like one that was killed.
SCRIPT = """
import hashlib, json, os, sys
import torch
torch.set_num_threads(1)
from divfeat import experiment
from divfeat.config import ExperimentConfig

config, stages, die_at = json.loads(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3])
steps, real = 0, torch.optim.SGD.step

def step(*given, **named):
    global steps
    steps += 1
    if steps == die_at:
        os._exit(9)
    return real(*given, **named)

torch.optim.SGD.step = step
from pathlib import Path
result = experiment.run(ExperimentConfig.model_validate(config), stages=stages and Path(stages), checkpoint_seconds=0.0)
bits = hashlib.sha256()
for name, value in sorted(result.extractor.state_dict().items()):
    bits.update(name.encode() + value.numpy().tobytes())
for name, found in sorted(result.features.items()):
    bits.update(name.encode() + found.after.numpy().tobytes() + found.logits.numpy().tobytes())
for name, value in sorted(result.correct.items()):
    bits.update(name.encode() + value.tobytes())
history = [{key: value for key, value in row.items() if key != "time"} for row in result.history]
print(json.dumps({"bits": bits.hexdigest(), "metrics": result.metrics, "history": history, "classes": result.per_class,
                  "steps": steps}))
"""


def trained(method, *, stages="", die_at=0, hash_seed="0", seed=3, role="search"):
    """What a process of its own prints; None where it died."""
    config = json.dumps(BASE | {"method": METHODS[method], "seed": seed, "role": role})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, config, str(stages), str(die_at)],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode == 9:
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_and_one_that_was_killed_in_the_middle_agree_to_the_last_bit(tmp_path, method):
    first, again = (trained(method, hash_seed=seed) for seed in ("1", "2"))
    assert again == first and len(first["metrics"]) > 20 and len(first["history"]) >= 3
    steps = first.pop("steps")
    die_at = steps // 2 + 1
    assert trained(method, stages=tmp_path, die_at=die_at) is None
    resumed = trained(method, stages=tmp_path)
    assert 0 < resumed.pop("steps") < steps  # it went on, and did not start again
    assert resumed == first
    assert trained(method, seed=4)["bits"] != first["bits"]
