"""The command up to the point where Ray would start: what it refuses, with which code and words, leaving nothing behind."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from divfeat.cli import tau_search
from divfeat.cli.flags import command_line, configure
from divfeat.cli.tau_search import main, parser
from divfeat.search.ledger import Ledger
from divfeat.settings import SMOKE, make_configs, preset_names
from divfeat.study_config import StudyConfig

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def own_handlers():
    """A study takes over the signals of its process; the test runner wants them back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """An empty folder for studies, with another as the working directory; both must stay as they are."""
    folder, cwd = tmp_path / "studies", tmp_path / "cwd"
    folder.mkdir()
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    yield folder
    assert list(cwd.iterdir()) == []


def configured(*words: str):
    return configure(parser().parse_args(words))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- help ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["tau_search", "long_tail_table", "hierarchy_table", "fixed_table"])
def test_help_answers_without_anything_heavy(command):
    script = (
        f"import sys\nfrom divfeat.cli.{command} import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n"
        "    print(end.code, sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    code, _, modules = done.stderr.partition(" ")
    assert code == "0"
    assert "'divfeat'" in modules
    for name in ("ray", "torch", "optuna", "mlflow", "matplotlib", "numpy", "sklearn", "rich"):
        assert f"'{name}'" not in modules
    assert f"usage: {command}.py" in done.stdout


def test_help_names_every_flag_and_exit_code(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    flags = (
        "--preset --config --set --name --trials --max-concurrent --workers-per-trial --gpus-per-worker --address "
        "--storage-path --tracking-uri --seed --time-budget --gpu-hours --max-cost --fork --smoke-test --dry-run --print-config"
    )
    for flag in flags.split():
        assert flag in text
    for code in ("0 done", "1 bad", "2 usage", "3 too many", "4 budget", "70 internal", "75 ", "130 "):
        assert code in text
    assert text.count("default") >= 9


# --- usage: exit code 2 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--no-such-flag"],
        ["--trial", "3"],  # no abbreviations: a flag added later must not change what a line means
        ["unexpected"],
        ["--trials", "many"],
        ["--trials", "-3"],
        ["--trials", "0"],
        ["--trials", "2.5"],
        ["--trials", "true"],
        ["--trials", "null"],
        ["--trials", "inf"],
        ["--trials", "Infinity"],
        ["--trials"],
        ["--max-concurrent", "0"],
        ["--workers-per-trial", "0"],
        ["--gpus-per-worker", "-0.5"],
        ["--gpus-per-worker", "nan"],
        ["--seed", "-1"],
        ["--seed", "0.5"],
        ["--time-budget", "0"],
        ["--time-budget", "soon"],
    ],
)
def test_a_line_that_makes_no_sense(words, storage, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--storage-path", str(storage), *words])
    assert end.value.code == 2
    text = capsys.readouterr().err
    assert "usage:" in text
    assert words[0] in text
    if len(words) == 2:
        assert repr(words[1]) in text or words[0] == "--trial"
    assert list(storage.iterdir()) == []


@pytest.mark.parametrize(("text", "number"), [("3", 3), ("3.0", 3), ("1e2", 100)])
def test_whole_numbers_may_be_written_as_people_do(text, number):
    assert configured("--trials", text)[1].trials == number


# --- bad configuration and data: exit code 1 ----------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Three classes of small images without coarse labels."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b", "c"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(6):
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "pictures"


LONG_TAIL = ["--preset", "digits-lt"]
BAD = {
    "preset": (["--preset", "digitz"], ["unknown preset 'digitz'", "Did you mean 'digits'?", "tin20-100"]),
    "key": (["--set", "train.epoch=3"], ["unknown setting 'train.epoch'", "Did you mean 'train.epochs'?"]),
    "section": (["--set", "trian.epochs=3"], ["unknown setting 'trian'", "'train'"]),
    "execution key": (["--set", "execution.trails=3"], ["unknown setting 'execution.trails'", "execution.trials"]),
    "no value": (["--set", "train.epochs"], ["--set 'train.epochs'", "KEY=VALUE"]),
    "type": (["--set", "train.epochs=many"], ["setting train.epochs='many'", "integer"]),
    "range": (["--set", "train.epochs=0"], ["setting train.epochs=0", "greater than or equal to 1"]),
    "two at once": (["--set", "train.lr=-1", "--set", "seeds=2"], ["train.lr=-1", "unknown setting 'seeds'"]),
    "method": (["--set", "protocol.baselines=[ce, ce_eft]"], ["unknown baseline 'ce_eft'", "ce_etf", "hinge_fixed"]),
    "no angles": (
        ["--set", "protocol.baselines=[ce, hinge_ce]"],
        ["'hinge_ce' has no angles", "hinge_fixed", "ce_etf"],
    ),
    "no baseline": (["--set", "protocol.baselines=[]"], ["protocol.baselines=[]", "at least one"]),
    "baseline twice": (["--set", "protocol.baselines=[ce, ce]"], ["['ce', 'ce']", "none twice"]),
    "rate": (["--set", "protocol.learning_rates=[0.1, 0]"], ["protocol.learning_rates=[0.1, 0.0]", "positive"]),
    "decay": (["--set", "protocol.weight_decays=[-1e-4]"], ["protocol.weight_decays=[-0.0001]", "negative"]),
    "objective": (["--set", "search.objectives=[fine_prob]"], ["unknown objective 'fine_prob'", "fine_probe"]),
    "family": (["--set", "search.family=globe"], ["unknown threshold family 'globe'", "major_minor"]),
    "degrees": (["--set", "search.high=65"], ["search.high=65", "radians", "65 degrees would be 1.1345"]),
    "empty box": (["--set", "search.low=1", "--set", "search.high=0.5"], ["search.low=1", "search.high=0.5"]),
    "sampler": (["--set", "search.sampler=cmaes"], ["'cmaes' needs two numbers", "tpe"]),
    "sampler name": (["--set", "search.sampler=tpee"], ["search.sampler='tpee'", "'tpe'"]),
    "asha with two": (
        ["--set", "search.asha={first_rung: 2}", "--set", "search.objectives=[fine_probe, accuracy]"],
        ["asha", "two objectives"],
    ),
    "late rung": (["--set", "search.asha={first_rung: 20}"], ["first_rung=20", "train.epochs=20"]),
    "small grid": (["--set", "protocol.grid_points=5"], ["grid_points=5", "at least 8"]),
    "dimensions": (["--set", "model.projector_dim=2"], ["5", "2", "model.projector_dim"]),
    "backbone": (["--set", "model.backbone=resnet33"], ["resnet33", "resnet32"]),
    "boundary": (["--set", "search.family=major_minor"], ["'major_minor'", "data.boundary=50"]),
    "no minor classes": (["--set", "search.objectives=[minor]"], ["objective 'minor'", "data.boundary=50"]),
    "imbalance": (["--set", "data.imbalance=0.5"], ["data.imbalance=0.5", "largest over smallest class"]),
    "empty class": (
        [*LONG_TAIL, "--set", "data.imbalance=1000"],
        ["data.imbalance=1000", "leaves class 7 no image", "imbalance below 110", "data.n_max above 1000"],
    ),
    "all minor": ([*LONG_TAIL, "--set", "data.boundary=110"], ["data.boundary=110", "every class", "from 5 to 109"]),
    "none minor": ([*LONG_TAIL, "--set", "data.boundary=4"], ["data.boundary=4", "no class", "from 5 to 109"]),
    "angles of other classes": ([*LONG_TAIL, "--set", "search.family=each_7"], ["'each_7'", "10 classes", "'each_10'"]),
    "no tail": (["--set", "search.family=count_curve"], ["'count_curve'", "too much alike", "data.imbalance"]),
    "no tail for two": (
        [*LONG_TAIL, "--set", "data.imbalance=1"],
        ["'major_minor'", "every class has 110 training images", "'global'"],
    ),
    "no few classes": (["--set", "search.objectives=[accuracy, few]"], ["objective 'few'", "group 'few'", "minor"]),
    "a group of classes alike": (
        [
            *LONG_TAIL,
            "--set",
            "data.imbalance=1",
            "--set",
            "search.family=global",
            "--set",
            "search.objectives=[minor]",
        ],
        ["objective 'minor' needs classes of different size", "each has 110 training images", "data.imbalance"],
    ),
    "a bound on a group": (
        ["--set", "search.constraints=[{metric: major, at_least: -1, than: ce_etf}]"],
        ["constraint 'major >= ce_etf - 1' needs minor and major classes", "data.boundary=50"],
    ),
    "missing data": (["--set", "data.source=folder:nowhere/at/all"], ["nowhere/at/all"]),
    "source": (["--set", "data.source=digitz"], ["digitz", "folder:"]),
    "validation": (["--set", "data.val_per_class=5000"], ["142 images", "5000", "hold out fewer"]),
    "config file": (["--config", "nowhere.yaml"], ["--config nowhere.yaml", "cannot be read"]),
    "name": (["--name", "a/b"], ["execution.name='a/b'"]),
    "storage URI": (["--storage-path", "ftp://host/x"], ["--storage-path ftp://...", "Give a path, file:///FOLDER"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_told_and_leave_nothing(case, storage, capsys):
    words, told = BAD[case]
    assert main(["--storage-path", str(storage), *words]) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "Traceback" not in text
    for part in told:
        assert part in text
    assert list(storage.iterdir()) == []


def test_coarse_labels_that_do_not_exist(storage, pictures, capsys):
    source = ["--set", f"data.source=folder:{pictures}", "--set", "data.val_per_class=2"]
    assert main(["--storage-path", str(storage), *source]) == 1
    text = capsys.readouterr().err
    assert "no coarse labels" in text
    assert "use level 'fine'" in text
    assert list(storage.iterdir()) == []


def test_a_test_split_that_does_not_exist_is_told_before_the_search(storage, pictures, capsys):
    shutil.rmtree(pictures / "test")
    settings = [f"data.source=folder:{pictures}", "data.train_level=fine", "data.val_per_class=2"]
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["--storage-path", str(storage), *words]) == 1
    assert f"{pictures} has none of the folders test, validation, val to test on" in capsys.readouterr().err
    assert list(storage.iterdir()) == []


def refuse(settings: list[str], storage: Path, capsys) -> str:
    """What the command says to a data set that it must refuse with nothing written."""
    settings = [*settings, "data.train_level=fine", "data.val_per_class=2"]
    assert main(["--storage-path", str(storage), *(word for text in settings for word in ("--set", text))]) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "Traceback" not in text
    assert list(storage.iterdir()) == []
    return text


def test_folders_with_a_corrupt_image_or_an_empty_class(storage, pictures, capsys):
    (pictures / "train" / "b" / "3.png").write_bytes(b"no image")
    told = refuse([f"data.source=folder:{pictures}"], storage, capsys)
    assert f"file {pictures / 'train' / 'b' / '3.png'} is not a readable image" in told
    (pictures / "train" / "d").mkdir()
    told = refuse([f"data.source=folder:{pictures}"], storage, capsys)
    assert f"class folder {pictures / 'train' / 'd'} holds no image: fill it or remove it" in told


def write_shard(path: Path, *, labels=(0, 1, 2) * 6, image="img", label="label", names=("a", "b", "c"), corrupt=None):
    """18 images of 8x8 in the hub's layout."""
    rng = np.random.default_rng(0)
    blobs = []
    for row in range(18):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
        blobs.append({"bytes": b"no image" if row == corrupt else buffer.getvalue(), "path": f"{row}.png"})
    features = {label: {"names": names, "_type": "ClassLabel"}}
    table = pa.table({image: blobs if image == "img" else range(18), label: pa.array(labels)})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)


BAD_SHARDS = {
    "no image column": ("train", {"image": "id"}, [], ["no image columns", "name one with data.image_column"]),
    "no label column": ("train", {"label": "kind"}, [], ["no integer label column", "name one with data.fine_column"]),
    "other column": ("train", {}, ["data.fine_column=kind"], ["no integer label column 'kind'", "label (int64)"]),
    "corrupt image": ("train", {"corrupt": 7}, [], ["row 7 of", "train.parquet is not a readable image"]),
    "label out of range": ("train", {"names": ("a", "b")}, [], ["row 2 of", "has label 2, outside [0, 2) (6 such"]),
    "empty class": ("train", {"labels": (0, 2, 2) * 6}, [], ["data.val_per_class=2", "class 1 has 0 images"]),
    "test of other classes": ("test", {"names": ("b", "a", "c")}, [], ["name the classes of 'label' differently"]),
    "test of other columns": ("test", {"label": "fine_label"}, [], ["has the columns img, fine_label where"]),
}


@pytest.mark.parametrize("case", BAD_SHARDS)
def test_parquet_that_cannot_be_used(case, storage, capsys):
    split, changes, settings, told = BAD_SHARDS[case]
    folder = storage.parent / "shards"
    folder.mkdir()
    for name in ("train", "test"):
        write_shard(folder / f"{name}.parquet", **(changes if name == split else {}))
    text = refuse([f"data.source=parquet:{folder}", *settings], storage, capsys)
    for part in told:
        assert part in text


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_a_storage_path_that_cannot_be_written(words, tmp_path, storage, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    assert main(["--storage-path", str(file / "studies"), *words]) == 1
    text = capsys.readouterr().err
    assert f"--storage-path: {file} cannot be written" in text
    assert file.read_text() == "mine"


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_a_name_taken_by_another_study(words, storage, capsys):
    ledger = Ledger(storage / "mine")
    ledger.open(make_configs("digits", {"search": {"high": 1.0}})[0])
    ledger.close()
    before = tree(storage)
    assert main(["--storage-path", str(storage), "--name", "mine", *words]) == 1
    text = capsys.readouterr().err
    assert "'mine' is taken" in text
    assert "search.high: 1.0 -> 1.48" in text
    assert tree(storage) == before


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_a_study_that_cannot_be_read_is_left_as_it_is(words, storage, capsys):
    (storage / "mine").mkdir()
    (storage / "mine" / "study.json").write_text('{"format": 1')
    before = tree(storage)
    assert main(["--storage-path", str(storage), "--name", "mine", *words]) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ") and "mine/study.json cannot be read (it is no JSON" in text
    assert tree(storage) == before


def test_a_server_that_does_not_answer(storage, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refuses, and nobody else gets the port
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert main(["--storage-path", str(storage), "--tracking-uri", uri]) == 1
    text = capsys.readouterr().err
    assert f"--tracking-uri '{uri}'" in text
    assert "leave the option out" in text
    assert list(storage.iterdir()) == []


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    """Every refusal comes before Ray is asked for anything."""
    import ray

    monkeypatch.setattr(ray, "init", lambda *place, **settings: pytest.fail("Ray was started"))


# --- other endings ------------------------------------------------------------------------------------------------------


def test_a_fault_of_ours_is_an_internal_error(storage, monkeypatch, capsys):
    def broken(flags):
        raise ZeroDivisionError("our mistake")

    monkeypatch.setattr(tau_search, "configure", broken)
    assert main(["--storage-path", str(storage)]) == 70
    text = capsys.readouterr().err
    assert "ZeroDivisionError: our mistake" in text
    assert "internal error" in text


def test_an_early_interrupt_has_its_code(monkeypatch):
    def interrupted(flags):
        raise KeyboardInterrupt

    monkeypatch.setattr(tau_search, "configure", interrupted)
    assert main([]) == 130


def test_the_line_that_resumes_can_be_pasted():
    words = ["--name", "a b", "--set", "search.objectives=[fine_probe, accuracy]", "--trials", "4"]
    line = command_line("tau_search.py", words)
    assert line.startswith("python ")
    script = "import sys, json; print(json.dumps(sys.argv[1:]))"
    pasted = line.replace(line.split()[1], f"-c '{script}'", 1).replace("python", sys.executable, 1)
    done = subprocess.run(["sh", "-c", pasted], capture_output=True, text=True, timeout=30, env=dict(os.environ))
    assert json.loads(done.stdout) == words


# --- configuration ------------------------------------------------------------------------------------------------------


def printed(capsys, *words: str) -> str:
    assert main([*words, "--print-config"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("preset", preset_names())
def test_what_print_config_prints_means_the_same_as_a_file(preset, storage, capsys):
    words = ["--preset", preset, "--seed", "3", "--trials", "7", "--set", "train.lr=0.2", "--name", "mine"]
    text = printed(capsys, *words)
    file = storage.parent / "settings.yaml"
    file.write_text(text)
    again = configured("--config", str(file))
    assert again[:2] == configured(*words)[:2]
    assert printed(capsys, "--config", str(file)) == text
    assert text.startswith(f"# identity {again[0].identity}\n")
    assert list(storage.iterdir()) == []


def test_print_config_shows_every_setting(capsys):
    shown = yaml.safe_load(printed(capsys))
    assert shown.pop("execution")["trials"] == 16
    assert set(shown) == set(StudyConfig.model_fields)
    assert shown["train"]["momentum"] == 0.9


def test_later_ones_win(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("train: {epochs: 5, lr: 0.3}\nexecution: {trials: 9}\nseed: 1\n")
    study, execution, about = configured("--config", str(file), "--set", "train.lr=0.4", "--set", "seed=2")
    assert (study.train.epochs, study.train.lr, study.seed, execution.trials) == (5, 0.4, 2, 9)
    assert study.train.batch_size == 64  # the preset's
    assert "embedded default" in about
    study, execution, _ = configured("--config", str(file), "--seed", "7", "--set", "seed=2", "--trials", "3")
    assert (study.seed, execution.trials) == (7, 3)


def test_the_preset_named_in_a_file_is_taken_unless_the_line_names_one(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("preset: cifar10\n")
    assert configured("--config", str(file))[0].preset == "cifar10"
    assert configured("--config", str(file))[0].data.source == "parquet:cifar10"
    assert configured("--config", str(file), "--preset", "digits-lt")[0].preset == "digits-lt"
    assert configured("--set", "preset=cifar20-100")[0].model.projector_dim == 128
    assert configured()[0].preset == "digits"


@pytest.mark.parametrize("preset", preset_names())
def test_the_smoke_test_is_valid_and_small_for_every_preset(preset):
    study, execution, _ = configured("--preset", preset, "--smoke-test")
    assert (study.train.epochs, execution.trials, study.protocol.confirm_seeds) == (2, 3, 2)
    assert study.train.warmup_epochs == 0
    assert study.data == configured("--preset", preset)[0].data
    assert study.identity != configured("--preset", preset)[0].identity


def test_the_users_words_stand_over_the_smoke_test(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("protocol: {select_seeds: 4}\n")
    words = ["--smoke-test", "--config", str(file), "--set", "train.epochs=3", "--trials", "5"]
    study, execution, _ = configured(*words)
    assert (study.train.epochs, execution.trials, study.protocol.select_seeds) == (3, 5, 4)
    assert study.protocol.confirm_seeds == SMOKE["protocol"]["confirm_seeds"]


def test_how_a_study_is_run_is_no_part_of_what_it_is():
    words = "--trials 3 --max-concurrent 2 --workers-per-trial 2 --gpus-per-worker 0.5 --address auto --name n"
    words += " --storage-path elsewhere --tracking-uri http://h --time-budget 9 --gpu-hours 8"
    study, execution, _ = configured(*words.split())
    assert study == configured()[0]
    assert execution.to_dict() | {"max_failed_share": 0.5, "cpus_per_worker": 1.0} == execution.to_dict()
    given = {name: value for name, value in execution.to_dict().items() if value is not None}
    assert given == {
        "name": "n",
        "trials": 3,
        "max_concurrent": 2,
        "workers_per_trial": 2,
        "gpus_per_worker": 0.5,
        "cpus_per_worker": 1.0,
        "address": "auto",
        "storage_path": "elsewhere",
        "home": "runs",
        "storage_patience": 120.0,
        "tracking_uri": "http://h",
        "time_budget": 9.0,
        "gpu_hours": 8.0,
        "prices": {},
        "checkpoint_seconds": 30.0,
        "max_failed_share": 0.5,
        "max_failed_in_row": 8,
    }
    assert configured("--seed", "1")[0].identity != study.identity


def test_the_default_name_is_preset_and_identity(storage, capsys):
    """The same line finds the same folder; any setting that decides a result leads elsewhere."""
    study = configured()[0]
    (storage / f"digits-{study.identity[:8]}").write_text("in the way")
    assert main(["--storage-path", str(storage)]) == 1
    captured = capsys.readouterr()
    assert f"study digits-{study.identity[:8]}" in captured.out
    assert "cannot be written" in captured.err
