"""deploy/kuberay: KubeRay's and Kubernetes' words and no others, what Ray's own reader makes of them, what the files promise."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from divfeat.cli.flags import configure
from divfeat.cli.tau_search import parser
from tests.deploy.alone import ROOT

FOLDER = ROOT / "deploy" / "kuberay"
SCHEMA = yaml.safe_load(Path(__file__).with_name("schemas").joinpath("kuberay.yaml").read_text())
KUBERNETES = "1.33"
CLUSTER = yaml.safe_load((FOLDER / "raycluster.yaml").read_text())
JOB = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())
SPECS = {"raycluster": CLUSTER["spec"], "rayjob": JOB["spec"]["rayClusterSpec"]}


def check(manifest: dict[str, Any]) -> None:
    """Against KubeRay's schema, and every pod template in it against Kubernetes'."""
    jsonschema.validate(manifest, SCHEMA)
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("manifest", [CLUSTER, JOB], ids=["raycluster", "rayjob"])
def test_manifests_are_valid(manifest: dict[str, Any]) -> None:
    check(manifest)


def _worker(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["workerGroupSpecs"][0]


BREAKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a misspelt option": lambda spec: spec.update(autoScalerOptions={}),
    "a mode there is not": lambda spec: spec["authOptions"].update(mode="tokens"),
    "a number where text is due": lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    "no name": lambda spec: _worker(spec).pop("groupName"),
    "text where a number is due": lambda spec: _worker(spec).update(maxReplicas="8"),
    "a misspelt field of the pod": lambda spec: _worker(spec)["template"]["spec"].update(nodeSelektor={}),
    "no image": lambda spec: _worker(spec)["template"]["spec"].pop("containers"),
    "a misspelt field of the container": lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0].update(
        imag="x"
    ),
}


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("kind", SPECS)
def test_broken_ones_are_not(kind: str, name: str) -> None:
    manifest = copy.deepcopy(CLUSTER if kind == "raycluster" else JOB)
    BREAKS[name](manifest["spec"].get("rayClusterSpec", manifest["spec"]))
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(manifest)


@pytest.mark.parametrize("kind", SPECS)
def test_rays_autoscaler_reads_a_head_that_trains_nothing_and_workers_from_zero(kind: str) -> None:
    read = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "x", "namespace": "y"}, "spec": SPECS[kind]})
    head, worker = read["available_node_types"]["headgroup"], read["available_node_types"]["spot-gpu"]
    assert head["resources"]["CPU"] == 0 and head["resources"]["divfeat_driver"] == 64
    assert (worker["min_workers"], worker["max_workers"]) == (0, 8)
    assert (worker["resources"]["CPU"], worker["resources"]["GPU"]) == (4, 1)
    assert read["idle_timeout_minutes"] == 5


@pytest.mark.parametrize("kind", SPECS)
def test_token_accounts_and_no_secret_in_the_file(kind: str) -> None:
    spec = SPECS[kind]
    assert spec["authOptions"] == {"mode": "token"}
    pods = [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    assert [pod["serviceAccountName"] for pod in pods] == ["divfeat-head", "divfeat-worker"]
    for pod in pods:
        for variable in pod["containers"][0]["env"]:
            hidden = re.search("PASSWORD|TOKEN|USERNAME|SECRET|KEY", variable["name"])
            assert ("valueFrom" in variable) == bool(hidden)
    versions = {
        line.split("==")[0]: line.strip().split("==")[1] for line in (ROOT / "constraints.txt").open() if "==" in line
    }
    assert spec["rayVersion"] == versions["ray"]


def test_access_is_valid_and_lets_in_only_what_the_operator_made() -> None:
    made = list(yaml.safe_load_all((FOLDER / "access.yaml").read_text()))
    for one in made:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    accounts = {one["metadata"]["name"] for one in made if one["kind"] == "ServiceAccount"}
    used = {
        group["template"]["spec"]["serviceAccountName"]
        for spec in SPECS.values()
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])
    }
    assert used == accounts
    (policy,) = [one["spec"] for one in made if one["kind"] == "NetworkPolicy"]
    assert policy["policyTypes"] == ["Ingress"]
    assert all(source.get("podSelector") for rule in policy["ingress"] for source in rule["from"])


def test_the_job_ends_itself_and_its_line_is_understood() -> None:
    spec = JOB["spec"]
    assert spec["shutdownAfterJobFinishes"] and spec["activeDeadlineSeconds"] <= 7 * 86400
    words = shlex.split(spec["entrypoint"])
    assert words[:2] == ["python", "studies/tau_search.py"]
    _, execution, _ = configure(parser().parse_args(words[2:]))
    assert execution.address == "auto"


def test_the_image_has_the_same_ray_and_copies_what_there_is() -> None:
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    assert f"FROM rayproject/ray:{CLUSTER['spec']['rayVersion']}-py311-gpu" in lines
    copied = [
        word for line in lines if line.startswith("COPY") for word in line.split()[1:-1] if not word.startswith("--")
    ]
    assert copied and all((ROOT / word).exists() for word in copied)
    assert "ENV DIVFEAT_COMMIT=$DIVFEAT_COMMIT" in lines
    images = {
        group["template"]["spec"]["containers"][0]["image"]
        for spec in SPECS.values()
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])
    }
    assert images == {"REGISTRY/divfeat:TAG"}
