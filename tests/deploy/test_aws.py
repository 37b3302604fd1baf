"""cluster.yaml brought up against a mock of Amazon's EC2 and IAM, in a network without a way out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.alone import ROOT, needs, play
from tests.deploy.aws_scene import BUCKET, SSH_FROM

pytestmark = pytest.mark.slow

FILE = yaml.safe_load((ROOT / "cluster.yaml").read_text())
WORKERS = [name for name in FILE["available_node_types"] if name != FILE["head_node_type"]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    needs("ssh")
    return play("aws_scene", tmp_path_factory.mktemp("aws"))


def tags(instance: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


def profile(instance: dict[str, Any]) -> str:
    return instance["IamInstanceProfile"]["Arn"].rpartition("/")[2]


def test_ray_up_starts_one_head_on_demand(found: dict[str, Any]) -> None:
    (head,) = found["head"]
    assert head["State"]["Name"] == "running"
    assert head["InstanceType"] == "m6i.xlarge"
    assert head.get("InstanceLifecycle") != "spot"
    assert profile(head) == "divfeat-head"
    assert tags(head)["ray-cluster-name"] == "divfeat" and tags(head)["ray-node-type"] == "head"
    assert head["MetadataOptions"]["HttpTokens"] == "required"
    assert "will not" not in found["up"]  # Ray's words for a file whose commands start no Ray, or no autoscaler


@pytest.mark.parametrize("name", WORKERS)
def test_the_autoscaler_can_make_every_worker_type(found: dict[str, Any], name: str) -> None:
    worker, kind = found["workers"][name], FILE["available_node_types"][name]
    assert worker["InstanceLifecycle"] == "spot"
    assert worker["InstanceType"] == kind["node_config"]["InstanceType"]
    assert profile(worker) == "divfeat-worker"
    assert worker["shutdown"] == "terminate"
    assert tags(worker)["ray-cluster-name"] == "divfeat" and tags(worker)["ray-user-node-type"] == name
    zones = {subnet["SubnetId"]: subnet["AvailabilityZone"] for subnet in found["subnets"]}
    assert {zones[subnet] for subnet in worker["subnets"]} == set(FILE["provider"]["availability_zone"].split(","))
    assert len({one["InstanceType"] for one in found["workers"].values()}) == len(WORKERS) > 1


def test_nothing_but_ssh_from_one_range_comes_in(found: dict[str, Any]) -> None:
    (group,) = found["groups"]
    nodes = [*found["head"], *found["workers"].values()]
    assert all([one["GroupId"] for one in node["SecurityGroups"]] == [group["GroupId"]] for node in nodes)
    inside = [rule for rule in group["IpPermissions"] if rule["UserIdGroupPairs"]]
    outside = [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"]]
    assert [pair["GroupId"] for rule in inside for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]
    (ssh,) = outside
    assert (ssh["FromPort"], ssh["ToPort"], ssh["IpRanges"]) == (22, 22, [{"CidrIp": SSH_FROM}])


def test_head_and_workers_have_rights_of_their_own_and_no_more(found: dict[str, Any]) -> None:
    for role in ("head", "worker"):
        made = found["iam"][role]
        assert made["roles"] == [f"divfeat-{role}"] and made["others"] == []
        assert [one["Principal"] for one in made["trust"]["Statement"]] == [{"Service": "ec2.amazonaws.com"}]
        for statement in made["policy"]["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert not any("*" in action for action in actions)
            assert statement["Resource"] != "*" or actions == ["ec2:DescribeInstances"]  # which knows no resources
            assert "$" not in str(statement)
    services = {role: {action.partition(":")[0] for action in actions_of(found, role)} for role in ("head", "worker")}
    assert services == {"head": {"s3", "ec2", "ssm", "iam"}, "worker": {"s3"}}
    head = {statement["Sid"]: statement for statement in found["iam"]["head"]["policy"]["Statement"]}
    assert head["LaunchSpotWorkersOfThisClusterOnly"]["Condition"]["StringEquals"] == {
        "aws:RequestTag/ray-cluster-name": FILE["cluster_name"],
        "aws:RequestTag/ray-node-type": "worker",
        "ec2:InstanceMarketType": "spot",
    }
    assert head["GiveWorkersTheirProfileAndNoOther"]["Resource"].endswith(":role/divfeat-worker")
    buckets = re.findall(r"arn:aws:s3:::([^/'\"]+)", str(found["iam"]))
    assert set(buckets) == {BUCKET}


def actions_of(found: dict[str, Any], role: str) -> list[str]:
    given = [statement["Action"] for statement in found["iam"][role]["policy"]["Statement"]]
    return [action for one in given for action in (one if isinstance(one, list) else [one])]


def test_everything_is_gone_in_the_end(found: dict[str, Any]) -> None:
    left = found["left"]
    assert left["profiles"] == [] and left["roles"] == []
    assert left["groups"] == ["default"]
    assert set(left["instances"]) == {"terminated"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ssh-from", "0.0.0.0/0", "--bucket", "b"], "whole internet"),
        (["--ssh-from", "somewhere", "--bucket", "b"], "no range of addresses"),
        (["--bucket", "b"], "--ssh-from and --bucket are needed"),
    ],
)
def test_prepare_refuses_what_would_be_open(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("prepare", Path(ROOT, "deploy", "aws", "prepare.py"))
    assert spec is not None and spec.loader is not None
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    with pytest.raises(SystemExit) as ended:
        prepare.main(["--region", "us-west-2", *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
