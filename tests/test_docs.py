"""What the pages tell a reader to type: every command is understood, every YAML is a valid study, the README's own run."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

import divfeat
from divfeat.cli import long_tail_table
from divfeat.cli.flags import configure
from divfeat.cli.tau_search import parser
from divfeat.data.prepare import prepare
from divfeat.experiment import build
from divfeat.files import read_json
from divfeat.methods import METHODS
from divfeat.ranges import RANGES
from divfeat.report import long_tail
from divfeat.report.columns import WINNER_ROW
from divfeat.report.commands import extractor_lines
from divfeat.report.reading import read_summary
from divfeat.report.words import interval, signed
from divfeat.search.jobs import baseline, experiment
from divfeat.search.progress import rough
from divfeat.settings import assigned, layered, load_preset, preset_names
from divfeat.study_config import StudyConfig
from divfeat.validation import build as validated
from tests.report.studies import Studied

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]}
ABOUT = {f"{name}.yaml": load_preset(name)["about"] for name in preset_names()}


def commands(text):
    """Arguments of every `python studies/tau_search.py ...` of a page, on one line or continued."""
    found = re.findall(r"python studies/tau_search\.py([^`\n]*)", re.sub(r"\\\n\s*", "", text))
    return [shlex.split(line.replace("NAME", "digits"), comments=True) for line in found]


COMMANDS = [pytest.param(words, id=f"{page}: {' '.join(words)}") for page, text in (PAGES | ABOUT).items()
            for words in commands(text)]  # fmt: skip
YAML = [
    pytest.param(block, id=page)
    for page, text in PAGES.items()
    for block in re.findall(r"```yaml\n(.*?)```", text, re.S)
]


def test_there_is_something_to_check():
    assert len(COMMANDS) > len(ABOUT) + 3 and YAML


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_are_understood(words):
    assert configure(parser().parse_args(words))[0].identity


def test_commands_of_the_table_are_understood(monkeypatch):
    made = []
    monkeypatch.setattr(long_tail, "write_table", lambda *given: made.append(given) or SimpleNamespace(markdown=""))
    pages = "\n".join(PAGES.values())
    read = re.findall(r"`python -m divfeat\.report\.long_tail (runs[^`]*)`", pages)
    assert [long_tail.main(shlex.split(words)) for words in read] == [0] * len(made) and made
    run = re.findall(r"`python studies/long_tail_table\.py( --[^`]*)`", pages)
    for words in run:
        flags = long_tail_table.parser().parse_args(shlex.split(words))
        assert all(configure(flags, preset)[0].identity for preset in flags.presets)
    assert run


@pytest.mark.parametrize("block", YAML)
def test_yaml_is_a_preset_and_a_file_over_another(tmp_path, block):
    (tmp_path / "my.yaml").write_text(block, encoding="utf-8")
    study, execution, _ = configure(parser().parse_args(["--config", str(tmp_path / "my.yaml")]))
    alone = yaml.safe_load(block)
    assert alone.pop("about") and alone.pop("execution") == {"trials": execution.trials}
    assert validated(StudyConfig, alone).data == study.data


@pytest.mark.parametrize("level", ["fine", "coarse"])
def test_your_own_images_as_the_readme_says(tmp_path, level):
    (words,) = [words for words in commands(PAGES["README.md"]) if any("folder:" in word for word in words)]
    if level == "coarse":
        place = words.index("data.train_level=fine")
        del words[place - 1 : place + 1]
    rng = np.random.default_rng(0)
    for split, number in (("train", 10), ("test", 2)):
        for k in range(4):
            folder = tmp_path / split / (f"coarse {k // 2}/fine {k}" if level == "coarse" else f"class {k}")
            folder.mkdir(parents=True)
            for place in range(number):
                pixels = rng.integers(0, 256, (40, 36 + place, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{place}.png")
    study, _, _ = configure(parser().parse_args([word.replace("PATH", str(tmp_path)) for word in words]))
    data = prepare(study.data, "search")
    assert len(data.evaluation) == 8 and len(data.class_names) == {"fine": 4, "coarse": 2}[level]
    for name in study.protocol.baselines:
        build(experiment(study, baseline(name, study), 0), data)


def test_the_extractor_loads_as_the_report_says(tmp_path):
    study = Studied(tmp_path / "s").begin().search(degrees=(60.0,)).select()
    study.ledger.write_phase("registered", {"model": "s", "key": study.winner_keys()[0]})
    printed = extractor_lines(read_summary(tmp_path / "s"))
    (shown,) = [block for block in blocks_of_python("README.md") if "mlflow" in block]
    assert shown.replace("runs/<study>", str(tmp_path / "s")).replace("<study>", "s") == printed


def test_the_lines_for_a_notebook_run(tmp_path, monkeypatch):
    """As they stand, on a study that is made without training."""
    (shown,) = [block for block in blocks_of_python("README.md") if "divfeat.study" in block]
    folder = Studied(tmp_path / "s").all().ledger.folder
    monkeypatch.setattr(
        divfeat, "study", lambda preset, *, trials, set: asked.append((preset, set)) or divfeat.open_study(folder)
    )
    asked, found = [], {}
    exec(shown, found)
    assert found["result"].folder == folder
    ((preset, over),) = asked
    layered(preset, {}, assigned(over), seed=None, execution={})  # settings that there are
    assert (ROOT / "studies" / "tau_search.ipynb").is_file()


def blocks_of_python(page):
    return re.findall(r"```python\n(.*?)\n```", PAGES[page], re.S)


def test_the_page_on_methods_lists_them_as_they_are():
    rows = [
        f"| `{name}` | {method.summary} | {'; '.join(f'`{part}` {RANGES[part]}' for part in method.searched)} |"
        for name, method in METHODS.items()
    ]
    assert "\n".join(rows) in PAGES["methods.md"]


@pytest.mark.parametrize("preset", preset_names())
def test_times_are_those_of_the_results(preset):
    """`python studies/preset_times.py` measures them; preset and README repeat them in words."""
    found = read_json(ROOT / "results" / "preset_times.json")
    row = found["presets"].get(preset)
    about, (line,) = ABOUT[f"{preset}.yaml"], re.findall(rf"^\|.* `{preset}`.*$", PAGES["README.md"], re.M)
    if row is None:
        assert "not measured" in about and "not measured" in line
        return
    seconds = row["measured_seconds"] or row["planned_seconds"]
    known = "measured" if row["measured_seconds"] else "planned"
    assert f"{rough(seconds)} ({known})" in line
    assert f"{rough(seconds)} on {found['cores']} CPU cores ({known})" in " ".join(about.split())


def test_the_readme_says_what_the_results_say():
    row = read_json(ROOT / "results" / "tin20-100-small" / "verdict.json")
    text = " ".join(PAGES["README.md"].replace(">", " ").split())
    assert row["verdict"] in text
    assert f"{row['winner']['angles']['tau']['degrees']:.0f} degrees" in text
    reached = {name: f"{found['terminal_phase']} of {found['finished']}" for name, found in row["methods"].items()}
    assert f"terminal phase was reached by {reached['winner']} runs of the winner and {reached['ce']} of `ce`" in text
    for comparison in row["objectives"][0]["comparisons"]:
        assert f"{signed(comparison['mean'])} {interval(comparison['low'], comparison['high'])}" in text


def test_the_readme_says_what_the_long_tail_says():
    row = read_json(ROOT / "results" / "digits-lt" / "verdict.json")
    text = " ".join(PAGES["README.md"].replace(">", " ").split())
    assert row["groups"]["answer"][0] in text
    major, minor = (row["winner"]["angles"][f"tau_{group}"]["degrees"] for group in ("major", "minor"))
    assert f"{major:.0f} degrees on major classes and {minor:.0f} degree on minor ones" in text
    found = {one["name"]: one for one in row["objectives"][0]["comparisons"]}
    etf, ldam = found["ce_etf"], found["ldam_drw"]
    assert etf["verdict"] == "not shown" and ldam["verdict"] == "worse"
    assert f"no gain is shown: {signed(etf['mean'])} {interval(etf['low'], etf['high'])}" in text
    assert f"{-ldam['mean']:.2f} {interval(-ldam['high'], -ldam['low'])}" in text
    assert f"{row['provenance']['evaluation_images']} test images" in text
    assert sum(one["finished"] - one["terminal_phase"] for one in row["methods"].values()) == 1
    table = (ROOT / "results" / "long-tail" / "long_tail.md").read_text(encoding="utf-8").partition("\n#### ")[0]
    assert table.strip() in PAGES["README.md"]


def test_the_readme_says_what_mistakes_over_a_tree_say():
    photos, digits = read_json(ROOT / "results" / "hierarchy" / "hierarchy.json")["data"]
    text = " ".join(PAGES["README.md"].split())

    def mean(study, method, metric):
        return study["methods"][method]["metrics"][metric]["mean"]

    severities = [mean(photos, name, "test/mistake_severity") for name in ("ce_no_projector", "haframe")]
    assert f"severity {severities[0]:.3f} to {severities[1]:.3f}" in text
    distances = [mean(photos, name, "test/hierarchical_distance_20") for name in ("ce_no_projector", "haframe")]
    assert f"distance at 20 {distances[0]:.3f} to {distances[1]:.3f}" in text
    for name in ("crm", "tree_soft_labels"):
        assert f"{mean(photos, name, 'test/mistake_severity'):.3f}" in text
    for k in (5, 20):
        found = {name: mean(photos, name, f"test/hierarchical_distance_{k}") for name in photos["methods"]}
        assert min(found, key=found.get) == "crm"
    angles = [f"{mean(digits, name, 'collapse/angular'):.3f}" for name in ("haframe", "haframe_ce")]
    assert f"come to {angles[0]} of those of the frame, {angles[1]} without it" in text
    follow = [
        f"{mean(digits, name, 'collapse/cophenetic'):.2f}"
        for name in ("haframe", "haframe_ce", "ce_no_projector", "hafeature")
    ]
    said = "with its distances is {}, against {} without that loss, {} for cross-entropy and {} for HAFeature"
    assert said.format(*follow) in text
    angles = [f"{mean(photos, name, 'collapse/angular'):.3f}" for name in ("haframe", "haframe_ce")]
    assert f"further away with it ({angles[0]}) than without ({angles[1]})" in text
    rows = (ROOT / "results" / "hierarchy" / "hierarchy.md").read_text(encoding="utf-8").splitlines()
    gains = {"haframe": "−1.18 [−2.80, +0.44]", "winner of the search": "−2.36 [−4.25, −0.46]"}
    for name, gain in gains.items():
        (row,) = [
            row.replace("\\", "")
            for row in rows[: rows.index("## digits-hierarchy")]
            if row.startswith(f"| {name} | −")
        ]
        assert gain in row and gain in text
    assert "−0.121 [−0.188, −0.053]" in text and "−0.121 [−0.188, −0.053]" in row
    tree, cones = read_json(ROOT / "results" / "hierarchy-coarse" / "hierarchy.json")["data"]
    probes = {name: mean(tree, name, "test/fine_top1") for name in tree["methods"]}
    severities = {name: mean(tree, name, "test/mistake_severity") for name in tree["methods"]}
    assert f"(`haframe` {probes['haframe']:.2f}, `ce_etf` {probes['ce_etf']:.2f})" in text
    assert f"severity of {severities['haframe']:.3f} against {severities['ce_etf']:.3f}" in text
    assert tree["methods"][WINNER_ROW]["configuration"] == "hinge_haf gate 65.0 deg"
    assert f"one of 65 degrees: {probes[WINNER_ROW]:.2f} at {severities[WINNER_ROW]:.3f}" in text
    assert cones["methods"][WINNER_ROW]["configuration"] == "ce_etf"
    assert max(probes, key=probes.get) == "ce_no_projector"
    page = (ROOT / "results" / "hierarchy-coarse" / "hierarchy.md").read_text(encoding="utf-8")
    sizes = re.findall(r"\| \d of 5 \|.*\| (\d+) \|\n", page)
    assert len(sizes) == 8 and set(sizes) == {"128"}
    verdict = read_json(ROOT / "results" / "tin100-coarse-tree" / "verdict.json")["objectives"][0]
    assert {one["verdict"] for one in verdict["comparisons"]} == {"not shown"}
    verdict = read_json(ROOT / "results" / "tin100-coarse-cones" / "verdict.json")["objectives"][0]
    (lost,) = [one for one in verdict["comparisons"] if one["name"] == "ce_no_projector"]
    by = f"{-lost['mean']:.2f} [{-lost['high']:.2f}, {-lost['low']:.2f}]"
    assert lost["verdict"] == "worse" and f"keeps most: {probes['ce_no_projector']:.2f}, {by} points above" in text
    fixed = read_json(ROOT / "results" / "tin100-hierarchy-coarse" / "fixed.json")["methods"]
    other, probe = (np.mean(fixed[name]["scores"]["fine probe"]) for name in ("ce_no_projector", "haframe"))
    assert f"the probe fell further, {other:.2f} to {probe:.2f}" in text
    ended = {
        key: one["terminal_phase"]
        for key, one in read_json(ROOT / "results" / "digits-hierarchy" / "verdict.json")["methods"].items()
    }
    assert set(ended.values()) == {5}
    first = "\n".join(rows).split("\n\n")[2]
    assert first.strip() in PAGES["README.md"]


def test_the_page_on_the_long_tail_says_what_the_reports_say():
    page, report = PAGES["long-tail.md"], (ROOT / "results" / "digits-lt" / "report.md").read_text(encoding="utf-8")
    ours, theirs = re.findall(r"Numerical rank\. Major classes: winner ([\d.]+) ± [\d.]+, ce\\_etf ([\d.]+)", report)[0]
    assert f"numerical rank {ours} instead of {theirs}" in page
    ours, theirs = re.findall(
        r"Mean feature norm\. Major classes: winner ([\d.]+) ± [\d.]+, ce\\_etf ([\d.]+)", report
    )[0]
    assert f"norm {ours} instead of {theirs}" in page
    differences = read_json(ROOT / "results" / "digits-lt" / "verdict.json")["groups"]["differences"]
    found = {group: {one["name"]: one for one in some} for group, some in differences.items()}
    minor, major = (signed(found[group]["ce_etf"]["mean"]) for group in ("minor", "major"))
    assert f"{minor} points on minor classes, {major} on major ones" in page
    assert abs(found["minor"]["ce_etf_la"]["mean"]) < 0.05  # the same minor accuracy as the winner
    assert found["major"]["ce_etf_la"]["mean"] == pytest.approx(found["major"]["ce_etf"]["mean"] / 2, abs=0.2)


class Fixed:
    """What single settings gave on test, as `results/<folder>/fixed.json` has it."""

    def __init__(self, folder):
        self.methods = read_json(ROOT / "results" / folder / "fixed.json")["methods"]

    def mean(self, name, group):
        return f"{np.mean(self.methods[name]['scores'][group]):.2f}"

    def of_the_loss(self, name):
        values = self.methods[name]["held"]["of the loss"]
        return "–" if None in values else f"{np.mean(values):.1f}"

    def gain(self, name):
        gain = self.methods[name]["minus_reference"]
        return f"{signed(gain['mean'])} {interval(gain['low'], gain['high'])}"

    def row(self, name):
        """The end of a method's row on the page."""
        return f"| {self.gain(name)} | {self.mean(name, 'major')} | {self.mean(name, 'minor')} | {self.of_the_loss(name)} |"


def test_the_page_on_the_long_tail_says_what_fixed_settings_gave_on_photographs():
    one, page = Fixed("cifar10-lt-fixed"), PAGES["long-tail.md"]
    rows = [
        line
        for line in page.partition("The same on photographs")[2].partition("## ")[0].splitlines()
        if line.startswith("| `")
    ]
    assert sorted(line.split("`")[1] for line in rows) == sorted({*one.methods} - {"ce_etf"})  # all of them
    for line in rows:
        assert line.endswith(one.row(line.split("`")[1]))
    words = " ".join(page.split())
    assert (
        f"`ce_etf` has {one.mean('ce_etf', 'major')} on major and {one.mean('ce_etf', 'minor')} on minor classes)"
        in words
    )
    means = {name: found["minus_reference"]["mean"] for name, found in one.methods.items() if found["minus_reference"]}
    verdicts = {name: found["minus_reference"]["verdict"] for name, found in one.methods.items() if name in means}
    late = {name for name in means if name.endswith("late")}
    assert all(verdicts[name] == "better" for name in late) and len(late) == 4
    assert all(means[name] < 0 for name in means if name.startswith("gate") and name not in late)
    assert max(means[name] for name in late if name != "la_gate70_late") < means["ce_etf_la"] / 2
    assert f"Logit adjustment gains {means['ce_etf_la']:.2f} points" in words
    assert f"takes {means['ce_etf_la'] - means['la_gate70_late']:.2f} of them away again" in words
    assert not any(found["terminal_phase"][0] for found in one.methods.values())
    readme = " ".join(PAGES["README.md"].split())
    gate = one.gain("gate70_late").removeprefix("+")
    assert (
        f"is {gate} points above `ce_etf` (open throughout {one.gain('gate70')}; logit adjustment on the same frame "
        in readme
    )
    assert f"frame {one.gain('ce_etf_la')})" in readme


def test_the_page_on_the_long_tail_says_what_fixed_settings_gave():
    page, one = " ".join(PAGES["long-tail.md"].split()), Fixed("digits-lt-fixed")
    found, mean, of_the_loss = one.methods, one.mean, one.of_the_loss
    section = PAGES["long-tail.md"].partition("## One setting at a time")[2].partition("Is it the norm?")[0]
    for name in ("gate58", "gate58_late", "gate58_early", "paper58", "gate58_all", "ce_etf_la"):
        (row,) = [line for line in section.splitlines() if line.startswith(f"| `{name}` |")]
        assert row.endswith(one.row(name))
    better = {name for name, one in found.items() if (one["minus_reference"] or {}).get("verdict") == "better"}
    assert better == {"gate58_late", "ce_etf_la"}
    assert f"{mean('ce_etf', 'major')} on major and {mean('ce_etf', 'minor')} on minor classes" in page
    pairs = [(mean("cosine_gate58", group), mean("cosine", group)) for group in ("major", "minor")]
    assert "(major {} after {}, minor {} after {})".format(*(value for pair in pairs for value in pair)) in page
    assert f"({mean('cosine_gate75', 'major')} and {mean('cosine_gate75', 'minor')})" in page
    assert f"held {of_the_loss('cosine_gate58')} % of the loss only" in page
    assert f"75 degrees, which held {of_the_loss('cosine_gate75')} %" in page
    late, throughout = (
        float(mean("ce_etf", "major")) - float(mean(name, "major")) for name in ("gate58_late", "gate58")
    )
    said = f"`gate58_early` held {of_the_loss('gate58_early')} % and lost, `gate58_late` held {of_the_loss('gate58_late')} %"
    assert f"{said} and gained most" in page and late < 1  # and keeps the bound of the search `bounded`
    assert late / throughout == pytest.approx(1 / 6, abs=0.02) and "a sixth of what it costs open throughout" in page


def proposals(study):
    """Of a report's table of trials: method -> score, percent of the images and of the loss that its cones held, as printed."""
    report = (ROOT / "results" / study / "report.md").read_text(encoding="utf-8")
    table = report.partition("### Proposals")[2].partition("*As proposed")[0].replace("°", "").replace(" / ", "/")
    cells = [[cell.strip() for cell in line.split("|")[2:7]] for line in table.splitlines() if re.match(r"\| \d", line)]
    return {name.replace(" deg", ""): (score, *held) for name, _, score, *held in cells}


def test_the_page_on_the_long_tail_says_what_the_long_search_found():
    page = " ".join(PAGES["long-tail.md"].split())
    trials = {
        name: (float(score), float(taken))
        for name, (score, _, taken) in proposals("digits-lt-long").items()
        if taken != "–"
    }
    plain = proposals("digits-lt-long")["gate 0.0/0.0 (= CE+ETF)"][0]
    gates = {tuple(map(float, name[5:].split("/"))): found for name, found in trials.items() if name.startswith("gate")}
    wide = {angles: found for angles, found in gates.items() if angles[1] > 33}
    narrow = {angles: found for angles, found in gates.items() if angles not in wide}
    little = [score for score, taken in narrow.values() if taken < 10]
    window = {angles: score for angles, (score, taken) in narrow.items() if 25 <= taken <= 85}
    most = [score for score, taken in narrow.values() if taken > 85]
    assert len(little) + len(window) + len(most) == len(narrow)
    assert (
        f"the {len(little)} that held less than a tenth of the loss scored {min(little):.2f} to {max(little):.2f}"
        in page
    )
    assert f"(no cones: {plain})" in page
    said = f"all {len(window)} that held between 25 and 85 % {min(window.values()):.2f} to {max(window.values()):.2f}"
    assert f"{said}, and the {len(most)} that held more less than no cones" in page and max(most) < float(plain)
    major = [angles[0] for angles in window]
    assert f"{min(major):.0f} to {max(major):.0f} degrees for the {len(window)}" in page
    assert f"alone scored {gates[0, 40][0]:.2f} and {gates[0, 50][0]:.2f}" in page
    assert all(score < float(plain) for score, _ in wide.values())
    clamped = [score for name, (score, _) in trials.items() if name.startswith("paper")]
    assert f"none of its {len(clamped)} trials is above no cones" in page and max(clamped) <= float(plain)
    row = read_json(ROOT / "results" / "digits-lt-long" / "verdict.json")
    found = {one["name"]: one for one in row["objectives"][0]["comparisons"]}
    etf, ldam = (
        f"{signed(found[n]['mean'])} {interval(found[n]['low'], found[n]['high'])}" for n in ("ce_etf", "ldam_drw")
    )
    assert f"better than `ce_etf` by {etf} points" in page and found["ce_etf"]["verdict"] == "better"
    assert f"no difference is shown ({ldam})" in page and found["ldam_drw"]["verdict"] == "not shown"
    assert f"gate of {row['winner']['angles']['tau_major']['degrees']:.1f} degrees on major classes" in page
    readme = " ".join(PAGES["README.md"].split())
    angle = f"a gate of {row['winner']['angles']['tau_major']['degrees']:.1f} degrees on major classes"
    again = interval(found["ce_etf"]["with_images"]["low"], found["ce_etf"]["with_images"]["high"])
    assert (
        f"{angle}: better than `ce_etf` by {etf} points over seeds ({again} if the test images are drawn anew" in readme
    )
    assert f"with the {row['provenance']['evaluation_images']} test images drawn anew as well it is {again}" in page
    first = read_json(ROOT / "results" / "digits-lt" / "verdict.json")
    gain = {one["name"]: one for one in first["objectives"][0]["comparisons"]}
    angle = first["winner"]["angles"]["tau_major"]["degrees"]
    ended = f"{angle:.1f} degrees ({signed(gain['ce_etf']['mean'])}, not shown against "
    assert (
        f"{ended}{len(gain)} baselines), the second with no cones" in page and gain["ce_etf"]["verdict"] == "not shown"
    )
    assert row["winner"]["angles"]["tau_minor"]["degrees"] < 0.05
    groups = {name: {one["name"]: one for one in some}["ce_etf"] for name, some in row["groups"]["differences"].items()}
    assert f"minor classes {signed(groups['minor']['mean'])}, major ones {signed(groups['major']['mean'])}" in page


def test_the_page_on_the_long_tail_says_what_variations_found():
    page = PAGES["long-tail.md"]
    text = (ROOT / "results" / "long-tail-why" / "long_tail.md").read_text(encoding="utf-8").replace("\\", "")
    overview, _, rest = text.partition("#### What thresholds do")

    def rows(table):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line]
        return {
            first.removeprefix("digits-lt-"): dict(zip(lines[0], [first, *cells], strict=True))
            for first, *cells in lines[2:]
        }

    effects, scores = rows(rest.partition("#### ")[0]), rows(overview)
    section = page.partition("## Variations of the search")[2].partition("What they say:")[0]
    told = {
        line.split("`")[1]: [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| `")
    }
    assert told.keys() == effects.keys() == scores.keys() and len(told) == 11
    for name, (_, _, winner, gain, minor) in told.items():
        found = effects[name]
        if "no cones won" in found["winner"]:
            assert (winner, gain, minor) == ("no cones", "", "")
            continue
        assert winner.partition(",")[0] in found["winner"] and (gain, minor) == (found["balanced"], found["minor"])
        assert found["minus"] == ("no_cones" if name in ("on_la", "posthoc", "cosine") else "ce_etf")
    words = " ".join(page.split())
    gain = "minus ce_etf"
    assert f"(`curve`, {scores['curve'][f'winner of the search {gain}']} by its study's own verdict)" in words
    base = [scores[name][f"no_cones {gain}"].split()[0].removeprefix("+") for name in ("on_la", "posthoc")]
    assert "are {} and {} points above `ce_etf`".format(*base) in words
    assert f"LDAM-DRW gains {scores['short'][f'ldam_drw {gain}']}" in words
    short = text.partition("#### digits-lt-short\n")[2].partition("\n#### ")[0]
    (reached,) = [line.split("|")[9].strip() for line in short.splitlines() if line.startswith("| ce_etf |")]
    assert f"with {reached} runs of `ce_etf` just in the terminal phase" in words
    assert f"LDAM-DRW gains {scores['short'][f'ldam_drw {gain}']}" in words
    assert scores["plain"]["the winner"] == "ce_etf"  # the second search, which ended with no cones
    assert len(re.findall(r"^Study ", text, re.M)) == 11 and text.count("seeds 2000 to 2009.") == 11


def test_the_readme_says_what_the_tail_of_a_hundred_classes_says():
    row = read_json(ROOT / "results" / "tin100-lt-small" / "verdict.json")
    text = " ".join(PAGES["README.md"].replace(">", " ").split())
    assert row["verdict"] in text and f"{row['provenance']['search_train_images']:,} Tiny ImageNet images" in text
    for one in row["objectives"][0]["comparisons"]:
        if one["name"] in ("ce_etf", "ldam_drw", "logit_adjustment", "ce_etf_la"):
            assert f"`{one['name']}` {signed(one['mean'])} {interval(one['low'], one['high'])}" in text
    assert not any(one["terminal_phase"] for one in row["methods"].values())


def test_the_page_on_the_long_tail_says_what_the_trials_held():
    page = " ".join(PAGES["long-tail.md"].split())
    rows = {study: proposals(study) for study in ("cifar10-lt-small", "tin100-lt-small", "digits-lt")}
    report = (ROOT / "results" / "cifar10-lt-small" / "report.md").read_text(encoding="utf-8")
    hollow, trials = re.findall(r"in (\d+) of the (\d+) finished trials with cones", report)[0]
    assert f"in {hollow} of {trials} trials they never held 1 %" in page
    photographs, digits = rows["cifar10-lt-small"], rows["digits-lt"]
    (one, held, *_), (other, more, *_) = photographs["gate 55.0"], photographs["gate 56.4/34.1"]
    plain = photographs["ce\\_etf"][0]
    assert f"had {held} % and {more} % of the training images" in page
    assert f"scored {one} and {other} where no cones score {plain}" in page
    angles = {
        name: [float(angle) for angle in re.findall(r"[\d.]+", name)] for name in photographs if "etf" not in name
    }
    low = [float(photographs[name][0]) for name, found in angles.items() if max(found) <= 57]
    assert f"{['', 'one', 'two', 'three', 'four', 'five', 'six', 'seven'][len(low)]} trials within 0.2 points" in page
    assert max(abs(score - float(plain)) for score in low) < 0.2 + 1e-9
    hundred = {name: float(inside) for name, (_, inside, *_) in rows["tin100-lt-small"].items() if inside != "–"}
    assert all(hundred[name] < 1 for name in ("gate 55.0", "gate 65.0", "paper 65.0"))
    assert hundred["paper 77.3/58.3"] > 40 and hundred["paper 82.9/45.7"] > 50
    report = (ROOT / "results" / "tin100-lt-small" / "report.md").read_text(encoding="utf-8")
    assert "Mean cosine to the own axis. Major classes: winner 0.24 " in report
    (one, held, *_), (other, more, *_) = digits["gate 28.6/10.4"], digits["gate 38.8/20.8"]
    assert one == other == digits["gate 0.0/0.0 (= CE+ETF)"][0]
    assert f"held {held} % and {more} % and scored {one}, as without" in page


def test_the_readme_says_what_the_tail_of_photographs_says():
    row = read_json(ROOT / "results" / "cifar10-lt-small" / "verdict.json")
    text = " ".join(PAGES["README.md"].replace(">", " ").split())
    assert row["verdict"].partition(". ")[0] + "." in text
    assert row["winner"]["equals"] == ["ce_etf"] and "which is `ce_etf`" in text
    found = {one["name"]: one for one in row["objectives"][0]["comparisons"]}
    for name in ("ldam_drw", "logit_adjustment"):
        assert f"`{name}` {signed(found[name]['mean'])} {interval(found[name]['low'], found[name]['high'])}" in text
    assert found["hinge_fixed"]["differences"] == [0.0] * 10
    etf = row["methods"]["ce_etf"]
    assert f"reached by {etf['terminal_phase']} of {etf['finished']} runs of `ce_etf`" in text
    assert f"{row['provenance']['search_train_images']:,} CIFAR-10 images" in text


class Trust:
    """What `results/trust` holds."""

    def __init__(self):
        place = ROOT / "results" / "trust"
        self.studies = read_json(place / "calibration.json")["studies"]
        self.same = {path.stem.removeprefix("same-"): read_json(path) for path in place.glob("same-*.json")}

    def null(self, study, case, seeds, key="false"):
        (row,) = [row for row in self.studies[study]["null"] if (row["case"], row["seeds"]) == (case, seeds)]
        return row[key][0]

    def at_most(self, case, key="false"):
        return max(self.null(study, case, seeds, key) for study in self.studies for seeds in (5, 10))

    def both(self, study, case, key="false"):
        return " / ".join(f"{self.null(study, case, seeds, key):.1f}" for seeds in (5, 10))

    def better(self, study, seeds, difference):
        rows = [row for row in self.studies[study]["power"] if (row["seeds"], row["difference"]) == (seeds, difference)]
        return rows[0]["better"][0]


def test_the_page_on_trust_says_what_was_drawn():
    found, page = Trust(), " ".join(PAGES["trust.md"].split())
    assert {*found.studies} >= {"digits", "digits-lt", "cifar10-lt-small", "tin20-100-small", "tin100-lt-small"}
    for study, row in found.studies.items():
        cases = [found.both(study, case) for case in ("these images", "unpaired", "new images")]
        cases += [found.both(study, "new images", "false_with_images"), found.both(study, "lapses")]
        assert f"| `{study}` | {row['baselines']} | {' | '.join(cases)} |" in page
        curves = [" / ".join(f"{found.better(study, S, d):.0f}" for S in (5, 10, 20)) for d in (0.5, 1.0, 2.0)]
        promised = " / ".join(f"{row['detectable'][str(S)]:.1f}" for S in (5, 10, 20))
        assert f"| `{study}` | {' | '.join(curves)} | {promised} |" in page
        for name, value in row["measured"].items():
            assert 0.75 < row["drawn"][name] / value < 1.33, (study, name)  # "within a quarter"
    most, images = found.at_most("new images"), found.at_most("new images", "false_with_images")
    assert f"told apart in up to {most:.0f} % of drawn studies" in page and f"errs in at most {images:.1f} %" in page
    readme = " ".join(PAGES["README.md"].split())
    assert f"comes in up to {most:.0f} % of them" in readme and "errs in under 2 %" in readme and images < 2
    assert most > 15 and found.at_most("these images") < 5.5  # what "in short" says
    assert f"at most {found.at_most('these images'):.1f} %, and as good" in page
    assert f"(at most {found.at_most('unpaired'):.1f} %)" in page
    assert f"sees it: up to {found.at_most('lapses'):.0f} %" in page
    equivalent = max(
        row[f"equivalent_{row['difference']:g}"][0]
        for study in found.studies.values()
        for row in study["power"]
        if row["difference"] in (0.5, 2.0)
    )
    assert f"called equivalent in at most {equivalent:.1f} %" in page
    assert f"at 10 seeds it is {found.null('digits-lt', 'new images', 10):.0f} %" in page
    little, enough = (found.better("digits-lt", seeds, 2.0) for seeds in (5, 10))
    assert f"two points are found in {little:.0f} % of studies, with ten seeds in {enough:.0f} %" in page


def test_the_page_on_trust_says_what_one_method_against_itself_gave():
    found, page = Trust(), " ".join(PAGES["trust.md"].split())
    assert {*found.same} == {"digits", "digits-lt"}
    for data, row in found.same.items():
        arms, gain = row["arms"], row["protocol"][1]["above_the_mean"]
        said = f"{signed(arms['mean'])} {interval(arms['low'], arms['high'])}, {arms['verdict']}"
        false = {(one["seeds"], one["baselines"]): one["false"] for one in row["verdicts"]}
        rates = [
            (false[5, 1], false[10, 1]),
            (false[5, 4], false[10, 4]),
            tuple(one["false"] for one in row["protocol"]),
        ]
        cells = [f"{few:.1f} / {many:.1f}" for few, many in rates]
        cells += [signed(gain[step]) for step in ("search", "selection", "confirmation")]
        assert f"| `{data}` | {arms['seeds']} | {said} | {' | '.join(cells)} |" in page
        assert gain["search"] > gain["selection"] > 0.05 > abs(gain["confirmation"])
        assert arms["verdict"] not in ("better", "worse")


def test_verdicts_on_digits_do_not_outlast_their_images_and_those_on_photographs_do():
    """As the page on trust and the README say, which name the two that do not."""
    found: set[str] = set()
    for path in sorted(ROOT.glob("results/*/verdict.json")):
        for one in read_json(path)["objectives"][0]["comparisons"]:
            if one["verdict"] in ("better", "worse"):
                outlasts = not one["with_images"]["low"] <= 0 <= one["with_images"]["high"]
                near = (path.parent.name, one["name"]) in (
                    ("tin100-hierarchy-small", name) for name in ("flamingo", "haframe_ce")
                )
                assert outlasts == (not near and "digits" not in path.parent.name), (path, one["name"])
                found |= {one["name"]} if near else set()
    assert found == {"flamingo", "haframe_ce"} and "against `flamingo` and `haframe_ce`" in PAGES["README.md"]


def test_the_chaos_run_the_readme_speaks_of_was_long_and_broke_nothing():
    from tests.chaos.__main__ import report

    found = read_json(ROOT / "results" / "chaos" / "chaos.json")
    assert found is not None and found["broken"] == [] and sum(found["faults"].values()) >= 50
    assert (ROOT / "results" / "chaos" / "chaos.md").read_text(encoding="utf-8") == report(found)
    assert "nothing was broken" in PAGES["README.md"]
