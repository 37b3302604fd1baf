"""cluster.yaml against a mock of Amazon's EC2 and IAM: prepare.py, `ray up` until the head runs, every worker type, the end.

python -m tests.deploy.aws_scene FOLDER      (alone: see tests.deploy.alone)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PORT = 5056
REGION, SSH_FROM, BUCKET = "us-west-2", "203.0.113.7/32", "studies-of-mine"


def main(folder: Path) -> None:
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{PORT}",
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",
        AWS_DEFAULT_REGION=REGION,
    )
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(PORT)],
        stdout=(folder / "moto.log").open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        _wait_until(lambda: urllib.request.urlopen(f"http://127.0.0.1:{PORT}/moto-api/", timeout=2).status == 200)
        (folder / "found.json").write_text(json.dumps(_play(folder), default=str))
    finally:
        server.kill()
        server.wait()


def _play(folder: Path) -> dict[str, Any]:
    import boto3

    prepare = [sys.executable, "deploy/aws/prepare.py", "--region", REGION]
    for _ in range(2):  # again without harm
        subprocess.run([*prepare, "--ssh-from", SSH_FROM, "--bucket", BUCKET], check=True)
    ec2, iam = boto3.client("ec2"), boto3.client("iam")
    found: dict[str, Any] = {"iam": {role: _role(iam, f"divfeat-{role}") for role in ("head", "worker")}}

    with (folder / "up.log").open("w") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "up", "-y", "--no-config-cache", "cluster.yaml"],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until(lambda: "Waiting for SSH" in (folder / "up.log").read_text() or up.poll() is not None)
        finally:  # a mocked instance runs nothing: there is no ssh to wait for
            up.kill()
            up.wait()
    found["up"] = (folder / "up.log").read_text()
    found["head"] = _instances(ec2)
    found["workers"] = _workers(ec2)
    found["groups"] = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["divfeat"]}])[
        "SecurityGroups"
    ]
    found["subnets"] = ec2.describe_subnets()["Subnets"]

    ec2.terminate_instances(InstanceIds=[one["InstanceId"] for one in _instances(ec2)])
    subprocess.run([*prepare, "--remove"], check=True)
    found["left"] = {
        "profiles": [one["InstanceProfileName"] for one in iam.list_instance_profiles()["InstanceProfiles"]],
        "roles": [one["RoleName"] for one in iam.list_roles()["Roles"] if one["RoleName"].startswith("divfeat")],
        "groups": [one["GroupName"] for one in ec2.describe_security_groups()["SecurityGroups"]],
        "instances": [one["State"]["Name"] for one in _instances(ec2)],
    }
    return found


def _role(iam: Any, name: str) -> dict[str, Any]:
    profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    return {
        "roles": [role["RoleName"] for role in profile["Roles"]],
        "trust": profile["Roles"][0]["AssumeRolePolicyDocument"],
        "policy": iam.get_role_policy(RoleName=name, PolicyName=name)["PolicyDocument"],
        "others": iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"],
    }


def _instances(ec2: Any) -> list[dict[str, Any]]:
    return [one for made in ec2.describe_instances()["Reservations"] for one in made["Instances"]]


def _workers(ec2: Any) -> dict[str, dict[str, Any]]:
    """One instance of every worker type, made by the provider of Ray's autoscaler from what `ray up` makes of the file."""
    import yaml
    from ray.autoscaler._private.commands import _bootstrap_config
    from ray.autoscaler._private.providers import _get_node_provider

    config = _bootstrap_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()), no_config_cache=True)
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    made = {}
    for name, kind in config["available_node_types"].items():
        if name == config["head_node_type"]:
            continue
        tags = {"ray-node-type": "worker", "ray-user-node-type": name, "ray-launch-config": "x", "ray-node-name": name}
        (instance,) = provider.create_node(kind["node_config"], tags, 1)
        (described,) = [one for one in _instances(ec2) if one["InstanceId"] == instance]
        behaviour = ec2.describe_instance_attribute(InstanceId=instance, Attribute="instanceInitiatedShutdownBehavior")
        made[name] = described | {
            "shutdown": behaviour["InstanceInitiatedShutdownBehavior"]["Value"],
            "subnets": kind["node_config"]["SubnetIds"],
        }
    return made


def _wait_until(true: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
