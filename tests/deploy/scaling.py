"""A Ray head whose autoscaler is real and whose nodes are processes on this machine (Ray's fake multi-node provider)."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.conftest import environment
from tests.servers import kill_tree

#: The provider's nodes dial this one, whatever the head's.
PORT = 6379
#: What the provider calls the head, whatever its file does.
HEAD = "ray.head.default"


def scaling_config(types: Mapping[str, tuple[dict[str, float], int]], *, most: int) -> dict[str, Any]:
    """Node types as resources and how many at most; the head has no resources but those of type `head`."""
    head = types.get("head", ({"CPU": 0.0}, 0))[0]
    kinds = {
        name: {"resources": dict(has), "node_config": {}, "min_workers": 0, "max_workers": number}
        for name, (has, number) in types.items()
        if name != "head"
    }
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    nothing = [*(f"{name}_commands" for name in commands), "cluster_synced_files", "rsync_exclude", "rsync_filter"]
    return {name: [] for name in nothing} | {
        "cluster_name": "fake",
        "max_workers": most,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "head_node_type": HEAD,
        "available_node_types": {HEAD: {"resources": dict(head), "node_config": {}, "max_workers": 0}, **kinds},
    }


@dataclass
class Scaling:
    """A head that runs."""

    address: str
    environment: dict[str, str]
    watched: Path

    def seen(self) -> list[list[float]]:
        """CPUs of each living node, the head's included, every time that they changed."""
        return [json.loads(line) for line in self.watched.read_text().splitlines()]


#: Joins the cluster, and writes down its nodes whenever they change.
_WATCH = """
import json, sys, time, ray
ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
last = None
while True:
    now = sorted(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    if now != last:
        print(json.dumps(now), file=open(sys.argv[1], "a"), flush=True)
    last = now
    time.sleep(0.2)
"""


@contextlib.contextmanager
def scaling_head(
    folder: Path, types: Mapping[str, tuple[dict[str, float], int]], *, most: int, dashboard: bool = False
) -> Iterator[Scaling]:
    """A head on loopback with token authentication and an autoscaler that looks once a second."""
    config, log = folder / "autoscaling.json", folder / "head.log"
    made = scaling_config(types, most=most)
    config.write_text(json.dumps(made))
    head = made["available_node_types"][HEAD]["resources"]
    others = {name: value for name, value in head.items() if name not in ("CPU", "GPU")}
    variables = environment() | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "0",  # the second autoscaler starts no fake node (seen at Ray 2.60)
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--node-ip-address=127.0.0.1", f"--port={PORT}",
                f"--num-cpus={head.get('CPU', 0):g}", f"--resources={json.dumps(others)}",
                f"--include-dashboard={str(dashboard).lower()}", "--object-store-memory=200000000",
                f"--autoscaling-config={config}", "--block",
            ],
            env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        address = f"127.0.0.1:{PORT}"
        variables["RAY_ADDRESS"] = address
        watched = folder / "nodes.jsonl"
        watched.touch()
        watcher = subprocess.Popen([sys.executable, "-c", _WATCH, str(watched)], env=variables)
        try:
            yield Scaling(address, variables, watched)
        finally:
            watcher.kill()
            watcher.wait(30)
    finally:
        kill_tree(process.pid)
        process.wait(30)
