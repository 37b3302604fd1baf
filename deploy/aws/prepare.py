"""Make, once, what cluster.yaml names on AWS: two instance profiles and a security group. `--remove` takes them away.

    python deploy/aws/prepare.py --region us-west-2 --ssh-from 203.0.113.7/32 --bucket my-studies
    python deploy/aws/prepare.py --region us-west-2 --remove

The policies are head.json and worker.json beside this file: workers reach the bucket of the studies and nothing else; the head
may also launch spot workers of this cluster, hand them their profile, and end them. The group lets the nodes talk to each
other and ssh in from the range given; nothing else comes in. It runs with your own credentials, and again without harm.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

import boto3
from botocore.exceptions import ClientError

HERE = Path(__file__).resolve().parent
ROLES = ("head", "worker")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--region", required=True)
    flags.add_argument(
        "--ssh-from", type=_range, metavar="CIDR", help="addresses that may reach ssh, e.g. 203.0.113.7/32"
    )
    flags.add_argument("--bucket", help="of the studies; it must exist")
    flags.add_argument("--cluster", default="divfeat", help="cluster_name of cluster.yaml; default divfeat")
    flags.add_argument("--vpc", help="default the region's default VPC")
    flags.add_argument("--remove", action="store_true", help="take everything away again")
    given = flags.parse_args(arguments)
    if not given.remove and not (given.ssh_from and given.bucket):
        flags.error("--ssh-from and --bucket are needed")
    try:
        if given.remove:
            _remove(given.region, given.cluster)
        else:
            _make(given.region, given.cluster, given.ssh_from, given.bucket, given.vpc)
    except (ClientError, LookupError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _make(region: str, cluster: str, ssh_from: str, bucket: str, vpc: str | None) -> None:
    iam = boto3.client("iam")
    group = _make_group(boto3.client("ec2", region_name=region), cluster, ssh_from, vpc)
    places = {
        "account": boto3.client("sts", region_name=region).get_caller_identity()["Account"],
        "region": region,
        "cluster": cluster,
        "bucket": bucket,
        "group": group,
    }
    with _if_missing():  # once an account: what launches spot instances for it
        iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")
    for role in ROLES:
        name = f"{cluster}-{role}"
        policy = Template((HERE / f"{role}.json").read_text(encoding="utf-8")).substitute(places)
        with _if_missing():
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=(HERE / "trust.json").read_text(encoding="utf-8"))
        iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=json.dumps(json.loads(policy)))
        with _if_missing():
            iam.create_instance_profile(InstanceProfileName=name)
        with _if_missing():
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        print(f"instance profile {name}: {', '.join(entry['Sid'] for entry in json.loads(policy)['Statement'])}")


def _make_group(ec2: Any, cluster: str, ssh_from: str, vpc: str | None) -> str:
    if vpc is None:
        found = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not found:
            raise LookupError("this region has no default VPC; name one with --vpc")
        vpc = found[0]["VpcId"]
    filters = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": [cluster]}]
    groups = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    if groups:
        group, rules = groups[0]["GroupId"], groups[0]["IpPermissions"]
        if rules:
            ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rules)
    else:
        about = "Nodes of a Ray cluster: everything among themselves, ssh from one range"
        group = ec2.create_security_group(GroupName=cluster, Description=about, VpcId=vpc)["GroupId"]
    inside = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": ssh_from}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[inside, ssh])
    print(f"security group {cluster} ({group}) in {vpc}: ssh from {ssh_from}")
    return str(group)


def _remove(region: str, cluster: str) -> None:
    iam, ec2 = boto3.client("iam"), boto3.client("ec2", region_name=region)
    for role in ROLES:
        name = f"{cluster}-{role}"
        with _if_gone():
            iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name)
        with _if_gone():
            iam.delete_instance_profile(InstanceProfileName=name)
        with _if_gone():
            iam.delete_role_policy(RoleName=name, PolicyName=name)
        with _if_gone():
            iam.delete_role(RoleName=name)
        print(f"instance profile {name} is gone")
    for group in ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [cluster]}])["SecurityGroups"]:
        ec2.delete_security_group(GroupId=group["GroupId"])
        print(f"security group {cluster} ({group['GroupId']}) is gone")


@contextlib.contextmanager
def _if_missing() -> Iterator[None]:
    """What is there already stays."""
    with _unless("EntityAlreadyExists", "InvalidInput", "LimitExceeded"):
        yield


@contextlib.contextmanager
def _if_gone() -> Iterator[None]:
    with _unless("NoSuchEntity"):
        yield


@contextlib.contextmanager
def _unless(*codes: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] not in codes:
            raise


def _range(text: str) -> str:
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no range of addresses: {error}") from error
    if found.prefixlen == 0:
        raise argparse.ArgumentTypeError(f"{text} is the whole internet; give your own address, e.g. 203.0.113.7/32")
    return str(found)


if __name__ == "__main__":
    sys.exit(main())
