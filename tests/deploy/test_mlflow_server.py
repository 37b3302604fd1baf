"""deploy/mlflow as it is, on this machine: PostgreSQL of the distribution, the server's own scripts, logins right and wrong."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from divfeat.storage import open_store
from tests.deploy.alone import ROOT
from tests.servers import free_port, kill_tree, make_bucket, s3_server, s3_variables

FOLDER = ROOT / "deploy" / "mlflow"


@dataclass
class Server:
    """One that runs, and what only it may know."""

    uri: str
    secrets: dict[str, str]
    environment: dict[str, str]


def programs() -> Path:
    """Where the distribution keeps PostgreSQL's own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed")
    return found[-1].parent


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """A PostgreSQL on loopback that asks for passwords: its port, and its superuser's word."""
    bins, word, port = programs(), secrets.token_hex(16), free_port()
    folder = tmp_path_factory.mktemp("postgres")
    owner: list[str] = []
    if os.geteuid() == 0:  # it refuses to run as root
        if "postgres" not in {user.pw_name for user in pwd.getpwall()}:
            pytest.skip("PostgreSQL's user is not there")
        owner = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        for parent in (folder, *folder.parents):
            if parent.owner() == "root" and parent != Path("/tmp") and "pytest" in str(parent):
                parent.chmod(0o755)
        shutil.chown(folder, "postgres")
    (folder / "word").write_text(word)
    (folder / "word").chmod(0o644)
    data = folder / "data"
    make = [
        str(bins / "initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "--auth=scram-sha-256",
        f"--pwfile={folder / 'word'}",
    ]
    subprocess.run([*owner, *make], check=True, capture_output=True, cwd=folder)
    run = [str(bins / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
    process = subprocess.Popen([*owner, *run], stdout=subprocess.DEVNULL, stderr=(folder / "log").open("w"), cwd=folder)
    try:
        wait_for(lambda: "ready to accept connections" in (folder / "log").read_text())
        yield port, word
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a server whose artifacts go to S3."""
    with s3_server(tmp_path_factory.mktemp("s3"), free_port()) as endpoint:
        place = f"s3://{make_bucket(endpoint)}/mlflow"
        yield s3_variables(endpoint) | {"MLFLOW_S3_ENDPOINT_URL": endpoint, "MLFLOW_ARTIFACTS": place}


@pytest.fixture(scope="module")
def server(
    database: tuple[int, str], bucket: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    port, word = database
    folder = tmp_path_factory.mktemp("mlflow")
    hidden = {
        name: secrets.token_hex(16)
        for name in ("PGPASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")
    }
    plain = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "MLFLOW_DB_PORT": str(port),
        "MLFLOW_PORT": str(free_port()),
        "MLFLOW_WORKERS": "1",
    } | bucket
    for _ in range(2):  # again without harm
        subprocess.run(
            ["bash", str(FOLDER / "create_databases.sh")],
            env=plain
            | {
                "PGHOST": "127.0.0.1",
                "PGPORT": str(port),
                "PGPASSWORD": word,
                "MLFLOW_DB_PASSWORD": hidden["PGPASSWORD"],
            },
            check=True,
            timeout=60,
        )
    log = folder / "log"
    process = subprocess.Popen(
        ["bash", str(FOLDER / "serve.sh")],
        env=plain | hidden,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        cwd=folder,
    )
    uri = f"http://127.0.0.1:{plain['MLFLOW_PORT']}"
    try:
        wait_for(lambda: process.poll() is not None or answers(f"{uri}/health") == 200, 180)
        assert process.poll() is None, log.read_text()
        yield Server(uri, hidden, plain)
        assert not any(value in log.read_text() for value in hidden.values())
    finally:
        process.terminate()
        try:
            process.wait(60)
            assert not list(folder.glob("tmp.*"))  # the settings went with it
        finally:
            kill_tree(process.pid)


def wait_for(true, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def answers(url: str, user: str = "", password: str = "") -> int:
    request = urllib.request.Request(url)
    if user:
        request.add_header("Authorization", "Basic " + b64encode(f"{user}:{password}".encode()).decode())
    try:
        return int(urllib.request.urlopen(request, timeout=10).status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


#: A run with an artifact, written and read back through the server; the login comes from the environment.
CLIENT = """
import pathlib, sys, tempfile
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
experiment = client.create_experiment(sys.argv[2])
run = client.create_run(experiment).info.run_id
client.log_metric(run, "val/accuracy", 0.5)
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "table.txt"); path.write_text("rows")
    client.log_artifact(run, str(path))
    got = client.download_artifacts(run, "table.txt", folder + "/..")
print("URI", client.get_run(run).info.artifact_uri, "READ", pathlib.Path(got).read_text())
"""


def client(server: Server, password: str, name: str) -> subprocess.CompletedProcess[str]:
    login = {
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": password,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    return subprocess.run(
        [sys.executable, "-c", CLIENT, server.uri, name],
        env=server.environment | login,
        capture_output=True,
        text=True,
        timeout=180,
    )


@pytest.mark.slow
def test_a_run_and_its_artifact_go_through_the_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    done = client(server, server.secrets["MLFLOW_AUTH_ADMIN_PASSWORD"], "allowed")
    assert done.returncode == 0, done.stderr
    assert "URI mlflow-artifacts:/" in done.stdout and "READ rows" in done.stdout
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, server.environment[name])
    store = open_store(server.environment["MLFLOW_ARTIFACTS"])
    (kept,) = [key for key in store.list() if key.endswith("/table.txt")]
    assert store.read(kept) == b"rows"


@pytest.mark.slow
def test_nobody_comes_in_without_the_password(server: Server) -> None:
    done = client(server, "wrong", "refused")
    assert done.returncode != 0
    assert "401" in done.stderr or "not authenticated" in done.stderr.lower()
    place = f"{server.uri}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert answers(place) == 401
    assert answers(place, "admin", "wrong") == 401
    assert answers(place, "admin", "password1234") == 401
    assert answers(place, "admin", server.secrets["MLFLOW_AUTH_ADMIN_PASSWORD"]) == 200


@pytest.mark.slow
def test_no_secret_is_in_a_title_or_a_file(server: Server, database: tuple[int, str]) -> None:
    titles = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            titles.append(path.read_bytes())
        except OSError:
            continue
    assert any(b"basic-auth" in title for title in titles)
    files = [path for path in Path(server.environment["HOME"]).rglob("*") if path.is_file()]
    assert any(path.name == "auth.ini" for path in files)
    for value in (*server.secrets.values(), database[1]):
        assert not [title for title in titles if value.encode() in title]
        assert not [path for path in files if value.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "missing", ["PGPASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_ARTIFACTS"]
)
def test_a_missing_secret_is_named_before_anything_starts(missing: str) -> None:
    given = dict.fromkeys(
        ("PGPASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_ARTIFACTS"), "x"
    )
    del given[missing]
    done = subprocess.run(
        ["bash", str(FOLDER / "serve.sh")],
        env=given | {"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0 and missing in done.stderr


def test_containers_run_the_same_scripts_and_hold_no_secret() -> None:
    made = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    database, server = made["services"]["database"], made["services"]["server"]
    mounted = [volume.split(":") for volume in database["volumes"] if volume.startswith("./")]
    assert [(FOLDER / source).resolve() for source, *_ in mounted] == [FOLDER / "create_databases.sh"]
    docker = (FOLDER / server["build"]["dockerfile"].rpartition("/")[2]).read_text()
    copied = [word for line in docker.splitlines() if line.startswith("COPY") for word in line.split()[1:-1]]
    assert copied and all((ROOT / word).is_file() for word in copied)
    assert 'CMD ["bash", "/mlflow/serve.sh"]' in docker
    secret = [name for name in server["environment"] | database["environment"] if "PASSWORD" in name or "KEY" in name]
    assert len(secret) >= 4
    for name, value in [*server["environment"].items(), *database["environment"].items()]:
        assert name not in secret or (value.startswith("${") and value.endswith(":?}")), name
    example = dict(
        line.split("=", 1) for line in (FOLDER / "example.env").read_text().splitlines() if line and line[0] != "#"
    )
    assert all(example[name] == "" for name in secret)
    assert all(port.startswith("${MLFLOW_BIND:-127.0.0.1}:") for port in server["ports"])
