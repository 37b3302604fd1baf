"""Study folders with known scores, written through the ledger the way a study writes them."""

import hashlib
import math

import numpy as np
import torch

from divfeat.config import MethodConfig
from divfeat.features import FeatureSet
from divfeat.files import write_json
from divfeat.methods import canonical, method_named
from divfeat.objectives import OBJECTIVES
from divfeat.record import save_features
from divfeat.search import protocol
from divfeat.search.jobs import SEARCH_SEED, Job, baseline, experiment, name_of, seed_of
from divfeat.search.ledger import FORMAT, Ledger
from divfeat.search.subjects import own_params, threshold_method
from divfeat.search.tuning import tuned_methods
from divfeat.settings import make_configs
from divfeat.study_config import ExecutionConfig
from divfeat.thresholds import ThresholdContext, family_named

#: Test (or validation) images of the six fine classes; a coarse class is two of them.
FINE = np.repeat(np.arange(6), [250, 210, 180, 150, 120, 90])
IMAGES = len(FINE)
FINE_NAMES = [f"fine {k}" for k in range(6)]
#: Training images of a trained class under a long tail; the last are minor at the presets' boundaries.
TAIL = [60, 50, 40, 35, 20, 10]


def noise(key):
    """A number in [-1, 1) that only the key decides."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**31 - 1


def share(config):
    """Score of an experiment: a curve over the angle with its top at 60 degrees, and a little noise over seeds."""
    angles = config.method.thresholds.angles.values()
    top = {"ce": 0.02, "ce_no_projector": 0.01, "ce_etf": 0.0}.get(config.method.name, 0.0)
    for angle in angles:
        top += 0.05 * (1 - abs(math.degrees(angle) - 60) / 60)
    return round(IMAGES * (0.8 + top + 0.004 * noise(config.key))) / IMAGES


def labels(config):
    """Of the images, at the level that the network is trained on."""
    return FINE if config.data.train_level == "fine" else FINE // 2


def correct(config, what):
    """bool [N]: as many right answers as the score says, a little fewer for the classifier, more in the later classes.

    By how much more differs between methods, so that no class gains as much as another.
    """
    lost = {"fine_probe": 0.0, "accuracy": 0.03}[what]
    rng = np.random.default_rng([int(config.key[:8], 16), len(what)])
    ease = rng.random(IMAGES) + FINE * (0.1 if config.method.name == "hinge_ce" else 0.03)
    return np.argsort(np.argsort(-ease)) < round((share(config) - lost) * IMAGES)


def counts(config):
    """Training images of each trained class."""
    return [40] * (labels(config).max() + 1) if config.data.imbalance is None else TAIL


def tau_plus(config):
    """Angles of the trained classes, radians; of families that make no sense for these classes too."""
    context = ThresholdContext(torch.tensor(counts(config)), boundary=config.data.boundary)
    thresholds = config.method.thresholds
    return family_named(thresholds.family).angles(thresholds.angles, context).tolist()


def per_class(config):
    """Rows of the trained classes; the classifier's accuracy."""
    right, owner, images, angles = correct(config, "accuracy"), labels(config), counts(config), tau_plus(config)
    return [
        {
            "class": k,
            "name": f"class {k}",
            "train_images": images[k],
            "accuracy": float(right[owner == k].mean()),
            "tau_plus": angles[k],
            "cdnv": 0.05 * (k + 1) * (1 + angles[k]) * (1 + 0.1 * noise(f"{config.key} {k}"))
            if images[k] > 1
            else None,
            "numerical_rank": 1 + angles[k] + 0.1 * k if images[k] > 1 else None,
            "positive_cosine": 0.9 - 0.2 * angles[k],
            "feature_norm": 4.0 + 0.1 * k,
        }
        for k in range(owner.max() + 1)
    ]


def inside_cone(rows):
    """Share of the images inside their cone at the end: none up to 30 degrees, then more the wider the cone is."""
    images = sum(row["train_images"] for row in rows)
    return sum(row["train_images"] * max(0.0, np.degrees(row["tau_plus"]) - 30) / 100 for row in rows) / images


def completed(config):
    """A record as `divfeat.record.completed` makes it, with every metric a report asks for."""
    value, rows = share(config), per_class(config)
    part, probe = ("val", "probe") if config.role == "search" else ("test", "test")
    metrics = {
        f"{part}/accuracy": float(correct(config, "accuracy").mean()),
        f"{part}/accuracy_balanced": float(np.mean([row["accuracy"] for row in rows])),
        f"{probe}/fine_top1": value,
        f"{probe}/fine_top1_before": value + 0.005,
        f"{probe}/unseen_top1": value - 0.02,
        f"{probe}/unseen_top1_before": value - 0.01,
        "probe/strength": 0.1,
        "probe/strength_before": 0.2,
        "collapse/nc1": 0.2 + value,
        "collapse/numerical_rank": 5 * value,
        "cone/occupancy": 0.9,
        "cone/occupancy_30deg": 0.2,
        "cone/occupancy_60deg": 0.7,
        "cone/positive_cosine": 0.8,
        "feature/norm": 4.0,
        "feature/log_norm": 1.4 - value,
        "train/accuracy_eval": 0.9995,
    }
    members = {
        "minor": lambda images: images <= config.data.boundary,
        "major": lambda images: images > config.data.boundary,
        "many": lambda images: images > 100,
        "medium": lambda images: 20 <= images <= 100,
        "few": lambda images: images < 20,
    }
    for group, holds in members.items():
        some = [row["accuracy"] for row in rows if holds(row["train_images"])]
        if 0 < len(some) < len(rows):
            metrics[f"{part}/accuracy_{group}"] = float(np.mean(some))
    if config.data.hierarchy is not None:
        metrics[f"{part}/mistake_severity"] = 2.5 - value + 0.05 * noise(f"{config.key} severity")
        for k in (1, 5):  # of six classes there are no 20
            metrics[f"{part}/hierarchical_distance_{k}"] = (1 - value) * (1 + 0.05 * k) + 0.01 * noise(config.key)
    own = 0.1 * noise(config.key)
    history = [
        {
            "epoch": e,
            "time": e,
            "train/positive_cosine": 0.4 + own + 0.1 * e,
            "train/negative_cosine": -0.1 * e - own,
            "train/inside_cone": inside_cone(rows) * e / 2,
            "train/cross_entropy": 3.0 - e,
            "train/cross_entropy_inside": inside_cone(rows) * e / 4,
        }
        for e in range(3)
    ]
    provenance = {
        "split_hash": f"split of {config.role}",
        "train_hash": "train",
        "evaluation_hash": config.role,
        "train_images": 120,
        "evaluation_images": IMAGES,
        "fine_names": FINE_NAMES,
        "parameter_count": 1234,
        "feature_dim": 8,
        "epoch_policy": "last",
        "commit": "abc",
        "device": "a processor",
        "workers": 1,
        "seconds": 3.0,
        "terminal_phase": config.method.name != "ce",
        "versions": {"torch": "2"},
    }
    return {
        "status": "completed",
        "config": config.to_dict(),
        "metrics": metrics,
        "history": history,
        "per_class": rows,
        "provenance": provenance,
        "notes": ["a note of the run"],
        "error": None,
        "finished": 0.0,
    }


def ended(config, status, error):
    """A record of a failed or pruned run."""
    kept = {"config": config.to_dict(), "history": [{"epoch": 0, "probe/fine_top1": 0.5}], "finished": 0.0}
    empty = {"metrics": {}, "per_class": [], "provenance": {}, "notes": []}
    return {"status": status, "error": error, "error_kind": "error", **kept, **empty}


def arrays(folder, config):
    """`correct.npz` that agrees with the metrics, and `features.parquet`, whose splits differ."""
    answers = {what: correct(config, what) for what in ("fine_probe", "accuracy")}
    np.savez_compressed(folder / "correct.npz", **answers, fine=FINE, label=labels(config))
    rng, sets = np.random.default_rng(int(config.key[:8], 16)), {}
    for part, shift in (("train", 0.0), ("test", 0.5)):
        after = torch.tensor(4 * np.eye(3, 8)[FINE // 2] + shift + rng.standard_normal((IMAGES, 8))).float()
        sets[part] = FeatureSet(after, after, after[:, :3], torch.tensor(FINE), torch.tensor(FINE // 2))
    save_features(folder / "features.parquet", sets)


class Studied:
    """Writes a study's folder phase by phase; `config` and `ledger` are there to look at.

    Args:
        folder: To write to.
        preset: To start from.
        record: (job) -> record, or None for a run that never finished.
        settings: Over the preset.
    """

    def __init__(self, folder, *, preset="digits", record=None, tracking_uri=None, **settings):
        small = {"protocol": {"learning_rates": [0.03, 0.1], "confirm_seeds": 5, "select_top": 2}}
        small = {**settings, "protocol": {**small["protocol"], **settings.get("protocol", {})}}
        self.config, _, _ = make_configs(preset, small)
        self.record = record or (lambda job: completed(job.experiment))
        self.ledger, self.trained = Ledger(folder), self.config
        self.rivals = {}
        write_json(
            folder / "study.json",
            {"format": FORMAT, "identity": self.config.identity, "config": self.config.to_dict(), "created": 0.0},
        )
        execution = ExecutionConfig(trials=9, tracking_uri=tracking_uri, storage_path=str(folder.parent))
        write_json(folder / "execution.json", execution.to_dict() | {"time": 0.0})

    def _run(self, jobs):
        for job in jobs:
            if self.ledger.record(job.key) is not None:
                continue
            self.ledger.start(
                job.key, {"phase": job.phase, "name": job.name, "seed": job.experiment.seed, "number": None}
            )
            if job.phase == "confirm":
                self.ledger.test_read(job.key, f"{job.name}, seed {job.experiment.seed}")
            record = self.record(job)
            if record is None:
                continue
            self.ledger.write_record(job.key, record)
            if job.phase == "confirm" and record["status"] == "completed":
                arrays(self.ledger.run_folder(job.key), job.experiment)

    def begin(self):
        """Calibration and noise floor."""
        jobs = protocol.calibration_jobs(self.config)
        if jobs:
            self._run(jobs)
            decision = protocol.calibration_decision(jobs, self.ledger.record)
            self.ledger.write_phase("calibrate", decision)
            self.trained = protocol.with_calibration(self.config, decision)
        self._run(protocol.noise_jobs(self.trained))
        return self

    def search(self, degrees=(0.0, 20.0, 40.0, 55.0, 62.0, 70.0, 80.0)):
        """One trial an angle (all angles of the family alike), ways of letting go in turn."""
        search = self.trained.search
        for number, angle in enumerate(degrees):
            family = family_named(search.family)
            angles = {name: 0.0 if family.other(name) else math.radians(angle) for name in family.parameters}
            if len(angles) > 1:  # so that what families of several angles search is spread
                angles[family.parameters[0]] *= 0.5 + 0.1 * (number % 3)
            release = search.releases[number % len(search.releases)]
            own = {part: 1.1 * value for part, value in own_params(search.method, search.own).items()}
            self.trial(number, ({**angles, "release": release} if angles else {}) | own, release)
        return self

    def trial(self, number, params, release):
        """One trial of the search."""
        method = threshold_method(self.trained, {**params, "release": release})
        config = experiment(self.trained, method, seed_of(self.trained, SEARCH_SEED))
        self.ledger.write_proposal(number, {"params": params, "key": config.key, "name": name_of(method)})
        self._run([Job(config, "search", name_of(method), number)])

    def tune(self, name, *settings):
        """One trial of a baseline for each of these values of its parts."""
        for number, values in enumerate(settings):
            method = baseline(name, self.trained).model_copy(update=values)
            job = Job(
                experiment(self.trained, method, seed_of(self.trained, SEARCH_SEED)), "tune", name_of(method), number
            )
            params = own_params(method, values)
            self.ledger.write_proposal(number, {"params": params, "key": job.key, "name": job.name}, name)
            self._run([job])
        self.rivals[name] = protocol.candidates(self.trained, self.ledger.proposals(name), self.ledger.record)
        return self

    def select(self):
        """Candidates, winner, grid."""
        chosen = protocol.candidates(self.trained, self.ledger.proposals(), self.ledger.record)
        self._run(protocol.selection_jobs(self.trained, chosen, self.rivals))
        trials = {name: len(self.ledger.proposals(name)) for name in self.rivals}
        decision = protocol.tuned_decision(self.trained, self.rivals, trials, self.ledger.record)
        if decision:
            self.ledger.write_phase("tuned", decision)
        self.tuned = tuned_methods(decision)
        known = (self.ledger.phase("winner") or {}).get("strengths", {})
        self.winner = protocol.winner_decision(self.trained, chosen, self.ledger.record)
        strengths = protocol.frozen_strengths(
            self.trained, self.winner["winner"], self.ledger.record, known, self.tuned
        )
        self.winner |= {"trials": len(self.ledger.proposals()), "strengths": strengths}
        self.ledger.write_phase("winner", self.winner)
        winner = canonical(MethodConfig.model_validate(self.winner["winner"]["method"]))
        release = winner.release if method_named(winner.name).hinge else self.trained.search.releases[0]
        own = protocol.grid_own(self.trained, self.winner["winner"])
        grid = protocol.grid_jobs(self.trained, release, own)
        if grid:
            self._run(grid)
            angles, seeds = protocol.grid_angles(self.trained), protocol.select_seeds(self.trained)
            decision = {"release": release, "angles": angles, "seeds": seeds}
            self.ledger.write_phase("grid", decision | ({"own": own} if own else {}))
        return self

    def confirm(self):
        """Winner and baselines on new seeds."""
        winner, strengths = self.winner["winner"], self.winner["strengths"]
        self._run(protocol.confirmation_jobs(self.trained, winner, strengths, self.tuned))
        return self

    def all(self):
        """Every phase."""
        return self.begin().search().select().confirm()

    def winner_keys(self):
        """Keys of the winner's selection runs."""
        method = MethodConfig.model_validate(self.winner["winner"]["method"])
        return [experiment(self.trained, method, seed).key for seed in protocol.select_seeds(self.trained)]

    def confirmed(self, name, objective="fine_probe"):
        """Test scores of a confirmed method in points, straight from the records; NaN for what did not finish."""
        method = protocol.confirmed_methods(self.trained, self.winner["winner"], self.tuned)[name]
        found = []
        for config in protocol.confirmation_experiments(self.trained, method, self.winner["strengths"]):
            record = self.ledger.record(config.key) or {"metrics": {}}
            measure = OBJECTIVES[objective]
            found.append(measure.scale * record["metrics"].get(measure.test, math.nan))
        return np.array(found)
