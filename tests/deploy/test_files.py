"""The files for `ray up`: Ray's own validation, the clouds' own words for a machine, and what each promises; broken ones fail."""

from __future__ import annotations

import copy
import json
import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import googleapiclient
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.gcp.node import GCPCompute
from ray.autoscaler._private.util import prepare_config, validate_config

from divfeat.cluster.capacity import DRIVER_RESOURCE
from tests.deploy.alone import ROOT

FILES = {
    "aws": ROOT / "cluster.yaml",
    "gcp": ROOT / "deploy" / "gcp" / "cluster.yaml",
    "local": ROOT / "deploy" / "local" / "cluster.yaml",
}
MADE = {name: yaml.safe_load(path.read_text()) for name, path in FILES.items()}
CLOUDS = [name for name in FILES if name != "local"]


def node_configs(name: str) -> dict[str, dict[str, Any]]:
    return {kind: made["node_config"] for kind, made in MADE[name]["available_node_types"].items()}


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_the_file(name: str) -> None:
    validate_config(prepare_config(copy.deepcopy(MADE[name])))


BREAKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an unknown key": lambda made: made.update(idle_timeout=5),
    "a number as text": lambda made: made.update(max_workers="8"),
    "no provider": lambda made: made.pop("provider"),
    "commands that are no list": lambda made: made.update(setup_commands="bash"),
}


@pytest.mark.parametrize("break_", BREAKS)
@pytest.mark.parametrize("name", FILES)
def test_ray_takes_no_broken_file(name: str, break_: str) -> None:
    made = copy.deepcopy(MADE[name])
    BREAKS[break_](made)
    with pytest.raises((jsonschema.ValidationError, ValueError, KeyError, AssertionError, TypeError)):
        validate_config(prepare_config(made))


# --- machines in the clouds' own words ----------------------------------------------------------------------------------------


def aws_words(node: dict[str, Any]) -> None:
    model = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    report = ParamValidator().validate(node | {"MinCount": 1, "MaxCount": 1}, model)
    assert not report.has_errors(), report.generate_report()


def gcp_words(node: dict[str, Any]) -> None:
    """As the library of Google's cloud describes an instance; the provider's own rewriting of short names comes first."""
    place = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents" / "compute.v1.json"
    schemas = json.loads(place.read_text())["schemas"]
    provider = GCPCompute(None, "my-project", "us-central1-a", "divfeat")
    _fits(provider._convert_resources_to_urls(node), schemas["Instance"], schemas, "node_config")


def _fits(value: Any, schema: dict[str, Any], schemas: dict[str, Any], where: str) -> None:
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    kind = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}[
        schema["type"]
    ]
    assert isinstance(value, kind), f"{where}: {value!r} is no {schema['type']}"
    assert "enum" not in schema or value in schema["enum"], f"{where}: {value!r} is none of {schema.get('enum')}"
    if isinstance(value, list):
        for item in value:
            _fits(item, schema["items"], schemas, where)
    elif isinstance(value, dict) and "properties" in schema:
        for key, item in value.items():
            assert key in schema["properties"], f"{where}: no {key}"
            _fits(item, schema["properties"][key], schemas, f"{where}.{key}")


WORDS = {"aws": aws_words, "gcp": gcp_words}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in CLOUDS for kind in node_configs(name)])
def test_every_machine_is_described_in_the_words_of_its_cloud(name: str, kind: str) -> None:
    WORDS[name](node_configs(name)[kind])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("aws", {"InstanceTyp": "m6i.large"}),
        ("aws", {"MetadataOptions": {"HttpToken": "required"}}),
        ("aws", {"BlockDeviceMappings": {}}),
        ("gcp", {"machinetype": "n1-standard-4"}),
        ("gcp", {"scheduling": {"provisioningModel": "CHEAP"}}),
        ("gcp", {"scheduling": [{"preemptible": True}]}),
    ],
)
def test_other_words_are_told(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        WORDS[name](node_configs(name)["head"] | change)


# --- what the files promise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLOUDS)
def test_a_safe_head_that_trains_nothing_and_spot_workers_from_zero(name: str) -> None:
    made = MADE[name]
    types = dict(made["available_node_types"])
    head = types.pop(made["head_node_type"])
    assert head["resources"]["CPU"] == 0 and head["resources"][DRIVER_RESOURCE] > 0
    assert "spot" not in str(head["node_config"]).lower()
    assert (
        len({one["node_config"].get("InstanceType", one["node_config"].get("machineType")) for one in types.values()})
        > 1
    )
    for one in types.values():
        assert one["min_workers"] == 0 < one["max_workers"] <= made["max_workers"]
        assert one["resources"]["GPU"] == 1 and DRIVER_RESOURCE not in one["resources"]
        assert "spot" in str(one["node_config"]).lower()
    assert 0 < made["idle_timeout_minutes"] <= 10
    assert made["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("name", CLOUDS)
def test_head_and_workers_are_different_accounts(name: str) -> None:
    nodes = node_configs(name)
    accounts = {
        kind: str(node.get("IamInstanceProfile") or node.get("serviceAccounts")) for kind, node in nodes.items()
    }
    head = accounts.pop("head")
    assert "divfeat-head" in head and all("divfeat-worker" in account for account in accounts.values())


@pytest.mark.parametrize("name", FILES)
def test_ray_starts_behind_a_token_and_on_loopback(name: str) -> None:
    made = MADE[name]
    head, worker = made["head_start_ray_commands"], made["worker_start_ray_commands"]
    (start,) = [command for command in head if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start and "--autoscaling-config=~/ray_bootstrap_config.yaml" in start
    assert all("start_ray.sh" in command for command in (*head, *worker) if "ray start" in command)
    assert made["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert not re.search(r"[0-9a-f]{32}|password|AKIA", FILES[name].read_text(), re.I)
    script = (ROOT / "deploy" / "start_ray.sh").read_text()
    assert "RAY_AUTH_MODE=token" in script and "RAY_USAGE_STATS_ENABLED=0" in script


@pytest.mark.parametrize("name", FILES)
def test_what_is_mounted_and_called_is_there(name: str) -> None:
    made = MADE[name]
    for source in made["file_mounts"].values():
        assert source.startswith("~") or (ROOT / source).exists()
    commands = [command for key, given in made.items() if key.endswith("_commands") for command in given]
    called = {word for command in commands for word in re.findall(r"~/divfeat/(deploy/\S+)", command)}
    assert called and all((ROOT / word).is_file() for word in called)
    for word in called:
        assert subprocess.run(["bash", "-n", str(ROOT / word)]).returncode == 0


def test_a_forgotten_cluster_ends_itself() -> None:
    aws = MADE["aws"]
    head = [command for command in aws["head_start_ray_commands"] if "start_watchdog.sh" in command]
    assert len(head) == 1 and re.search(r"--hours \d+ --then 'sudo shutdown -h now'", head[0])
    for name in CLOUDS:
        (worker,) = [command for command in MADE[name]["worker_start_ray_commands"] if "start_watchdog.sh" in command]
        assert re.search(r"--hours \d+ --without-ray \d+ --then 'sudo shutdown -h now'", worker)
    assert all(node["InstanceInitiatedShutdownBehavior"] == "terminate" for node in node_configs("aws").values())
    for node in node_configs("gcp").values():
        assert node["scheduling"]["instanceTerminationAction"] == "DELETE"
        assert int(node["scheduling"]["maxRunDuration"]["seconds"]) <= 3 * 86400


# --- the scripts of the nodes ---


def test_ray_does_not_start_without_a_token(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "deploy" / "start_ray.sh"), "/nowhere", "ray", "start"],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "ray get-auth-token --generate" in done.stderr


def test_ray_starts_with_the_token_in_a_file_for_the_owner_alone(tmp_path: Path) -> None:
    """Programs of that name stand for Ray's: what they are called with is written down."""
    (tmp_path / ".ray").mkdir()
    token = tmp_path / ".ray" / "auth_token"
    token.write_text("a" * 64)
    token.chmod(0o644)
    bins = tmp_path / "environment" / "bin"
    bins.mkdir(parents=True)
    (bins / "ray").write_text(f'#!/bin/sh\necho "$RAY_AUTH_MODE $RAY_USAGE_STATS_ENABLED $*" >> {tmp_path}/calls\n')
    (bins / "ray").chmod(0o755)
    subprocess.run(
        ["bash", str(ROOT / "deploy" / "start_ray.sh"), str(bins.parent), "ray", "start", "--head", "--port=6379"],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        check=True,
    )
    assert (tmp_path / "calls").read_text().splitlines() == ["token 0 stop", "token 0 start --head --port=6379"]
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


@pytest.mark.slow
def test_a_node_gets_the_pinned_packages_once(tmp_path: Path) -> None:
    folder, environment = tmp_path / "divfeat", tmp_path / "environment"
    folder.mkdir()
    pin = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("iniconfig=="))
    (folder / "pyproject.toml").write_text('[project]\nname = "divfeat"\ndependencies = ["iniconfig>=1"]\n')
    (folder / "constraints.txt").write_text(f"{pin}\n")
    line = ["bash", str(ROOT / "deploy" / "setup_node.sh"), str(folder), str(environment)]
    at_home = dict(os.environ, HOME=str(tmp_path))
    first = subprocess.run(line, capture_output=True, text=True, timeout=300, env=at_home)
    assert first.returncode == 0, first.stdout + first.stderr
    python = str(environment / "bin" / "python")
    code = "import sys, importlib.metadata as m; print(sys.version_info[:2], m.version('iniconfig'))"
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"(3, 11) {pin.partition('==')[2]}"
    before = (environment / ".made-of").stat().st_mtime_ns
    second = subprocess.run(line, capture_output=True, text=True, check=True, env=at_home)
    assert "has the wanted packages" in second.stdout and (environment / ".made-of").stat().st_mtime_ns == before
    (folder / "constraints.txt").write_text("iniconfig==2.0.0\n")
    subprocess.run(line, check=True, timeout=300, env=at_home)
    shell = subprocess.run(
        ["bash", "-c", "source ~/.bashrc; command -v python; echo $RAY_AUTH_MODE"],
        env=at_home,
        capture_output=True,
        text=True,
    )
    assert shell.stdout.split() == [python, "token"]
    assert (tmp_path / ".bashrc").read_text().count("\n") == 1
    assert "2.0.0" in subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout


# --- what the owner runs once on the cloud of Google ---


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., tuple[int, str, list[str]]]:
    """Runs deploy/gcp/prepare.sh where `gcloud` writes down what it was asked for."""
    program = tmp_path / "gcloud"
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n')
    program.chmod(0o755)

    def run(*words: str, **variables: str) -> tuple[int, str, list[str]]:
        done = subprocess.run(
            ["bash", str(ROOT / "deploy" / "gcp" / "prepare.sh"), *words],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}"} | variables,
            capture_output=True,
            text=True,
        )
        asked = tmp_path / "asked"
        return done.returncode, done.stderr, asked.read_text().splitlines() if asked.exists() else []

    return run


GIVEN = {"PROJECT": "my-project", "REGION": "us-central1", "SSH_FROM": "203.0.113.7/32", "BUCKET": "my-studies"}


def test_gcp_is_prepared_for_the_names_in_the_file(prepare: Any) -> None:
    code, _, asked = prepare(**GIVEN)
    assert code == 0
    accounts = {word for line in asked for word in re.findall(r"serviceAccount:(\S+)", line)}
    assert accounts == {node["serviceAccounts"][0]["email"] for node in node_configs("gcp").values()}
    worker = [line for line in asked if "serviceAccount:divfeat-worker@" in line]
    assert len(worker) == 1 and "gs://my-studies" in worker[0] and "roles/storage.objectUser" in worker[0]
    rules = [line for line in asked if "firewall-rules create" in line]
    assert [re.findall(r"--allow (\S+) --source-ranges (\S+)", line) for line in rules] == [
        [("tcp,udp,icmp", "10.128.0.0/20")],
        [("tcp:22", "203.0.113.7/32")],
    ]
    subnets = {node["networkInterfaces"][0]["subnetwork"] for node in node_configs("gcp").values()}
    assert subnets == {"projects/my-project/regions/us-central1/subnetworks/divfeat"}
    role = yaml.safe_load((ROOT / "deploy" / "gcp" / "head-role.yaml").read_text())
    assert all(re.fullmatch(r"[a-z]+(\.[a-zA-Z]+)+", permission) for permission in role["includedPermissions"])
    assert not any("iam" in permission or "setIamPolicy" in permission for permission in role["includedPermissions"])


def test_gcp_is_cleared_of_all_that_was_made(prepare: Any) -> None:
    _, _, made = prepare(**GIVEN)
    code, _, asked = prepare("--remove", PROJECT="my-project", REGION="us-central1")
    assert code == 0
    gone = " ".join(line for line in asked[len(made) :])
    for line in made:
        if " create " in line:
            name = re.findall(r" create (\S+)", line)[0]
            assert name in gone


@pytest.mark.parametrize(
    ("change", "said"),
    [({"SSH_FROM": "0.0.0.0/0"}, "whole internet"), ({"SSH_FROM": "here"}, "no range"), ({"BUCKET": ""}, "BUCKET")],
)
def test_gcp_stays_closed(prepare: Any, change: dict[str, str], said: str) -> None:
    code, stderr, asked = prepare(**GIVEN | change)
    assert code != 0 and said in stderr and asked == []


# --- what docs/cluster.md tells a reader to type ---


def test_the_page_names_files_flags_and_settings_that_there_are() -> None:
    from divfeat.cli.tau_search import parser
    from divfeat.study_config import ExecutionConfig

    page = (ROOT / "docs" / "cluster.md").read_text()
    named = set(re.findall(r"(?:deploy/[\w./-]+\w|(?<![\w/.-])cluster\.yaml)", page))
    assert len(named) > 10 and all((ROOT / name).exists() for name in named)
    flags = {option for action in parser()._actions for option in action.option_strings}
    ours = re.findall(r"`(--[a-z-]+)(?: [^`]*)?`", page)
    assert ours and set(ours) <= flags
    assert {name for name in re.findall(r"execution\.(\w+)", page)} <= set(ExecutionConfig.model_fields)
    priced = yaml.safe_load(re.findall(r"execution\.prices=(\{.*?\})", page)[0])
    assert set(priced) == set(MADE["aws"]["available_node_types"])


def test_every_line_of_the_page_is_one_for_a_shell() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, re.S)
    assert len(blocks) > 10
    for block in blocks:
        done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
        assert done.returncode == 0, f"{block}\n{done.stderr}"


def test_everything_that_is_installed_is_pinned() -> None:
    """By the constraints of the repository, wherever a file under deploy/ installs packages."""
    lines = [
        (path.name, line.strip())
        for path in [ROOT / "cluster.yaml", *sorted((ROOT / "deploy").rglob("*"))]
        if path.is_file() and path.suffix in (".yaml", ".sh", ".py", "") and "__pycache__" not in path.parts
        for line in path.read_text(encoding="utf-8").splitlines()
        if "pip install" in line and not line.lstrip().startswith("#")
    ]
    assert {"cluster.yaml", "Dockerfile", "setup_node.sh"} <= {name for name, _ in lines}
    # uv, which installs the rest, comes from the machine's own pip: the first step of all.
    free = [(name, line) for name, line in lines if "constraint" not in line and "--user uv" not in line]
    assert free == []
