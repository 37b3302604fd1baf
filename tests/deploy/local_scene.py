"""deploy/local/cluster.yaml on two machines that are namespaces here: `ray up`, a study by `ray job submit`, `ray down`.

    python -m tests.deploy.local_scene FOLDER      (alone: see tests.deploy.alone)

Each machine has an address, an ssh server, processes and a /tmp/ray of its own; keys and homes are made for the occasion.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.scaling_scene import TINY

ROOT = Path(__file__).resolve().parents[2]
HEAD, WORKER = "10.99.0.1", "10.99.0.2"
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def main(folder: Path) -> None:
    home = Path(os.environ["HOME"])
    _make_home(home)
    Path("/run/sshd").mkdir(exist_ok=True)
    _move_home(folder, home)
    _run("ip", "link", "add", "toward", "type", "veth", "peer", "name", "back")
    _run("mount", "-t", "tmpfs", "tmpfs", _made("/tmp/ray"))
    servers = [_second_machine(folder, home)]
    try:
        _run("ip", "addr", "add", f"{HEAD}/24", "dev", "toward")
        _run("ip", "link", "set", "toward", "up")
        _run("ip", "route", "add", "default", "via", WORKER)
        servers.append(_sshd(folder, home, HEAD))
        for address in (HEAD, WORKER):
            _wait_until(lambda address=address: _ssh(home, address, "true").returncode == 0, 60)
        found = _play(folder, home)
        (folder / "found.json").write_text(json.dumps(found))
    finally:
        for server in servers:
            server.kill()
            server.wait()


def _play(folder: Path, home: Path) -> dict[str, Any]:
    begun = time.monotonic()

    def told(what: str) -> None:
        print(f"{time.monotonic() - begun:.0f} s: {what}", flush=True)

    file = _file(folder)
    found: dict[str, Any] = {}
    up = subprocess.run([*RAY, "up", "-y", "--no-config-cache", str(file)], capture_output=True, text=True)
    assert up.returncode == 0, up.stdout + up.stderr
    found["up"] = up.stdout
    _wait_until(lambda: len(_nodes(home)) == 2, 180)
    told("both machines are in")
    found["nodes"] = _nodes(home)
    found["listening"] = _ssh(home, HEAD, "ss -ltnH || netstat -ltn").stdout
    job = subprocess.run(
        [
            *RAY, "job", "submit", "--address", "http://127.0.0.1:8265", "--working-dir", str(_code(folder)),
            "--runtime-env-json", json.dumps({"env_vars": {"DIVFEAT_COMMIT": "c" * 40}}), "--",
            "python", "studies/tau_search.py", "--address", "auto", *TINY, "--max-concurrent", "1", "--name", "sent",
            "--storage-path", str(folder / "studies"),
        ],
        capture_output=True,
        text=True,
        env=dict(os.environ, RAY_AUTH_MODE="token"),
    )  # fmt: skip
    told("the job is over")
    found["job"] = {"code": job.returncode, "said": job.stdout + job.stderr}
    refused = subprocess.run(
        [*RAY, "job", "list", "--address", "http://127.0.0.1:8265"],
        capture_output=True,
        text=True,
        env=dict(os.environ, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="f" * 64),
    )
    found["refused"] = {"code": refused.returncode, "said": refused.stdout + refused.stderr}
    token = (home / ".ray" / "auth_token").read_text()
    found["titles"] = [title for address in (HEAD, WORKER) for title in _titles(home, address)]
    found["titles_with_token"] = [title for title in found["titles"] if token in title]
    down = subprocess.run([*RAY, "down", "-y", str(file)], capture_output=True, text=True)
    found["down"] = {"code": down.returncode, "said": down.stdout + down.stderr}
    told("down")
    found["left on the head"] = _raylets(home, HEAD)
    _wait_until(lambda: not _raylets(home, WORKER), 180)  # it misses the head for a minute, and ends
    told("nothing is left")
    return found


def _raylets(home: Path, address: str) -> list[str]:
    return [title for title in _titles(home, address) if "/raylet " in title]


def _file(folder: Path) -> Path:
    """The file as a user changes it: addresses, user, key."""
    made = yaml.safe_load((ROOT / "deploy" / "local" / "cluster.yaml").read_text())
    made["provider"] |= {"head_ip": HEAD, "worker_ips": [WORKER]}
    made["auth"] = {"ssh_user": getpass.getuser(), "ssh_private_key": "~/.ssh/id_ed25519"}
    made |= {"min_workers": 1, "max_workers": 1}
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(made))
    return path


def _code(folder: Path) -> Path:
    """What a job takes along: the code, without history."""
    code = folder / "code"
    code.mkdir()
    for part in ("divfeat", "studies"):
        _run("cp", "-r", str(ROOT / part), str(code))
    return code


def _make_home(home: Path) -> None:
    (home / ".ssh").mkdir(parents=True)
    for key in ("host", "id_ed25519"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / ".ssh" / key))
    (home / ".ssh" / "authorized_keys").write_text((home / ".ssh" / "id_ed25519.pub").read_text())
    (home / ".bashrc").touch()
    # Packages are here already, and no registry is in sight: an environment as setup_node.sh leaves it.
    environment = home / "divfeat-env"
    environment.mkdir()
    for part in ("bin", "lib", "pyvenv.cfg"):
        (environment / part).symlink_to(Path(sys.prefix) / part)
    made_of = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    (environment / ".made-of").write_text(hashlib.sha256(made_of).hexdigest() + "\n")


def _move_home(folder: Path, home: Path) -> None:
    """ssh and its server look for a home in this file, and nowhere else."""
    users = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    for user in users:
        if user[0] == getpass.getuser():
            user[5] = str(home)
    (folder / "passwd").write_text("".join(":".join(user) + "\n" for user in users))
    _run("mount", "--bind", str(folder / "passwd"), "/etc/passwd")


def _sshd(folder: Path, home: Path, address: str, *before: str) -> subprocess.Popen[bytes]:
    settings = folder / f"sshd-{address}"
    settings.write_text(
        f"ListenAddress {address}\nHostKey {home}/.ssh/host\nAuthorizedKeysFile {home}/.ssh/authorized_keys\n"
        f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\nMaxStartups 100\n"
        "SetEnv RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1\n"
    )
    log = (folder / f"sshd-{address}.log").open("wb")
    return subprocess.Popen([*before, "/usr/sbin/sshd", "-D", "-e", "-f", str(settings)], stdout=log, stderr=log)


def _second_machine(folder: Path, home: Path) -> subprocess.Popen[bytes]:
    ready = (
        f"while ! ip link show back >/dev/null 2>&1; do sleep 0.1; done; ip link set lo up; ip addr add {WORKER}/24 dev back; "
        f'ip link set back up; ip route add default via {HEAD}; mount -t tmpfs tmpfs /tmp/ray; exec "$@"'
    )
    before = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", ready, "bash")
    server = _sshd(folder, home, WORKER, *before)
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
    _wait_until(lambda: children.read_text().split(), 10)
    _wait_until(
        lambda: subprocess.run(["ip", "link", "set", "back", "netns", children.read_text().split()[0]]).returncode == 0,
        10,
    )
    return server


def _ssh(home: Path, address: str, command: str) -> subprocess.CompletedProcess[str]:
    options = ["-i", f"{home}/.ssh/id_ed25519", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    line = ["ssh", *options, "-o", "BatchMode=yes", f"{getpass.getuser()}@{address}", command]
    return subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)


def _nodes(home: Path) -> list[dict[str, float]]:
    """Resources of every node, asked on the head."""
    code = (
        "import ray, json; ray.init(address='auto', logging_level='ERROR'); nodes = [n for n in ray.nodes() if n['Alive']]; "
        "print('NODES', json.dumps([n['Resources'] | {'kind': n['Labels'].get('ray.io/node-group')} for n in nodes]))"
    )
    said = _ssh(home, HEAD, f'RAY_AUTH_MODE=token {home}/divfeat-env/bin/python -c "{code}"')
    lines = [line for line in said.stdout.splitlines() if line.startswith("NODES ")]
    assert lines, said.stdout + said.stderr
    return json.loads(lines[0].removeprefix("NODES "))


def _titles(home: Path, address: str) -> list[str]:
    said = _ssh(home, address, "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $file 2>/dev/null; echo; done")
    return [line for line in said.stdout.splitlines() if line.strip()]


def _wait_until(true: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.3)


def _made(path: str) -> str:
    Path(path).mkdir(exist_ok=True)
    return path


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
