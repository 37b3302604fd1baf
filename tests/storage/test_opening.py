"""Addresses, and what is told of one that cannot be used: at once, with the remedy, and never with a secret in it."""

from __future__ import annotations

import http.client
import math
import os
import random
import shlex
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from divfeat.cli.flags import configure
from divfeat.cli.tau_search import main, parser
from divfeat.errors import ConfigError, DataError, DivfeatError, StorageLostError, disk_fault
from divfeat.report.commands import study_command
from divfeat.search import doctor
from divfeat.search.command import make_study
from divfeat.search.interrupt import Interrupt
from divfeat.settings import make_configs
from divfeat.storage import network_filesystem, open_store, parse, reopen
from divfeat.storage.folder import FolderBackend
from divfeat.storage.opening import _resolved
from divfeat.storage.scratch import scratch
from divfeat.storage.store import Store
from tests.servers import free_port, make_bucket, s3_server, s3_variables

SECRET = "AKIAsecret42"


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("ftp://host/x", "unknown kind of storage 'ftp'"),
        ("S3A://bucket/x", "unknown kind of storage 's3a'"),
        ("s3://", "is no name of a bucket"),
        ("s3://Bad_Bucket!/x", "is no name of a bucket"),
        ("s3://bucket/a/../../other", "leads elsewhere"),
        ("s3://bucket/a/%2e%2e/other", "leads elsewhere"),
        ("gs://bucket/a//b", "leads elsewhere"),
        ("s3://bucket/x#y", "'#'"),
        ("s3://bucket/x?region=a&region=b", "given twice"),
        ("file://server/folder", "three slashes"),
        ("file:///", "names no folder"),
        ("file:///mnt/../etc", "leads elsewhere"),
        (f"s3://user:{SECRET}@bucket/x", "holds credentials"),
        (f"s3://{SECRET}@bucket/x", "holds credentials"),
        (f"gs://token:{SECRET}@bucket/x", "GOOGLE_APPLICATION_CREDENTIALS"),
        (f"ftp://user:{SECRET}@host/x", "holds credentials"),
        (f"s3://bucket/x?access_key=a&secret_key={SECRET}", "'access_key' cannot be set in the URI"),
        (f"s3://bucket/x?session_token={SECRET}", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_bad_address_is_told_without_secrets(uri: str, told: str, tmp_path: Path, capsys) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(uri)
    assert told in str(refused.value)
    assert SECRET not in str(refused.value)
    for words in (["--storage-path", uri], ["--set", f"execution.storage_path={uri}"]):
        for more in ([], ["--print-config"], ["--dry-run"]):
            assert main([*words, "--set", f"execution.home={tmp_path}", *more]) == 1
            said = capsys.readouterr()
            assert "error: " in said.err and "Traceback" not in said.err
            assert SECRET not in said.err + said.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/a b/c", "gs://bucket/x?scheme=http", "file:///mnt/a%20b"])
def test_an_address_is_read_as_it_is_written(uri: str) -> None:
    assert parse(parse(uri).uri) == parse(uri)


def test_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the nodes are told, so that theirs need not."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.example:9000")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    found = _resolved(parse("s3://bucket/x"))
    assert found.options == {"endpoint_override": "store.example:9000", "scheme": "http", "region": "eu-north-1"}
    assert parse(found.uri) == found
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example")
    assert _resolved(parse("s3://bucket/x")).options["endpoint_override"] == "s3.example"
    assert _resolved(parse("s3://bucket/x?endpoint_override=mine:1")).options["endpoint_override"] == "mine:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://user:{SECRET}@s3.example")
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL_S3: expected the address of a server") as refused:
        _resolved(parse("s3://bucket/x"))
    assert SECRET not in str(refused.value)


def test_a_folder_that_is_not_mounted_or_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no folder .*mount what it stands for"):
        open_store((tmp_path / "mnt" / "studies").as_uri())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"cannot be used|no permission"):
        open_store("file:///proc/studies", patience=60.0)


MOUNTS = """/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/local ext4 rw 0 0
//nas/share /mnt/a\\040b cifs rw 0 0
sshfs /mnt/ssh fuse.sshfs rw 0 0
lxcfs /var/lib/lxcfs fuse.lxcfs rw 0 0
overlay /over overlay rw 0 0
server:/x /hidden nfs rw 0 0
tmpfs /hidden tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/me/runs", "nfs4"),
        ("/homely/runs", None),
        ("/home/local/runs", None),
        ("/mnt/a b/runs", "cifs"),
        ("/mnt/ssh", "fuse.sshfs"),
        ("/var/lib/lxcfs/x", None),
        ("/over/x", None),
        ("/hidden/x", None),
        ("/var/runs", None),
    ],
)
def test_which_folders_lie_on_another_machine_s_disk(folder: str, kind: str | None, tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert network_filesystem(Path(folder), tmp_path / "mounts") == kind
    assert network_filesystem(Path(folder), tmp_path / "none") is None


def test_databases_never_lie_on_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("divfeat.search.command.network_filesystem", lambda folder: "nfs4")
    for settings, told in (
        ({"storage_path": str(tmp_path / "runs")}, f"give it as {(tmp_path / 'runs').as_uri()}"),
        ({"storage_path": (tmp_path / "runs").as_uri()}, "--set execution.home=FOLDER"),
    ):
        study, execution, _ = make_configs("digits", {"execution": settings})
        with pytest.raises(ConfigError, match=told):
            make_study(study, execution, Interrupt())
    assert list(tmp_path.iterdir()) == []


def test_links_in_a_shared_folder_are_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "mnt" / "studies"
    (root / "mine").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_bytes(b"secret")
    (root / "mine" / "folder").symlink_to(tmp_path / "secret")
    (root / "mine" / "file").symlink_to(tmp_path / "secret" / "key")
    os.mkfifo(root / "mine" / "pipe")
    store = open_store(root.as_uri(), patience=0.0).inside("mine")
    assert store.list() == {}
    for key in ("file", "folder/key"):
        with pytest.raises(StorageLostError):
            store.read(key)
        with pytest.raises(StorageLostError):
            store.get(key, tmp_path / "copy")
    with pytest.raises(StorageLostError):
        store.write("folder/new", b"x")
    assert store.read("pipe") is None
    store.delete("file")
    assert (tmp_path / "secret" / "key").read_bytes() == b"secret"
    assert sorted(path.name for path in (tmp_path / "secret").iterdir()) == ["key"]
    assert not (tmp_path / "copy").exists()


def test_a_hiccup_is_waited_out_and_a_lasting_loss_told_once(tmp_path: Path) -> None:
    root = tmp_path / "mnt" / "studies"
    root.mkdir(parents=True)
    store = Store(FolderBackend(root), root.as_uri(), patience=5.0)
    root.rename(tmp_path / "away")
    root.write_text("not the folder")  # NFS that comes up late: what is read there now is nothing of ours
    back = threading.Timer(0.8, lambda: (root.unlink(), (tmp_path / "away").rename(root)))
    back.start()
    store.inside("mine").write("a", b"x")
    back.join()
    assert store.read("mine/a") == b"x"

    gone = Store(FolderBackend(root), root.as_uri(), patience=1.0)
    root.rename(tmp_path / "away")
    root.write_text("not the folder")
    with pytest.raises(StorageLostError, match="writing a failed") as lost:
        gone.write("a", b"x")
    assert isinstance(lost.value, DivfeatError)
    assert disk_fault(lost.value) is not None
    began = time.monotonic()
    with pytest.raises(StorageLostError):  # nobody waits again for what was given up
        gone.inside("mine").write("a", b"x")
    assert time.monotonic() - began < 0.9


def test_scratch_of_a_killed_trial_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "import time\nfrom divfeat.storage.scratch import scratch\nwith scratch() as top:\n"
    code += "    print(top, flush=True)\n    time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=dict(os.environ, TMPDIR=str(tmp_path))
    )
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    with scratch() as mine:
        assert left.exists()  # its owner lives
        process.kill()
        process.wait()
        with scratch() as another:
            assert sorted(tmp_path.iterdir()) == sorted([mine, another])
    assert list(tmp_path.iterdir()) == []


# --- servers ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_wrong_with_a_bucket_is_told_at_once(
    s3: str, gs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    for uri in ("s3://no-such-bucket/x", "gs://no-such-bucket/x"):
        with pytest.raises(ConfigError, match="there is no bucket 'no-such-bucket'; make it first"):
            open_store(uri)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert main(["--storage-path", s3, "--set", f"execution.home={tmp_path}"]) == 1
    assert "cannot be used" in (said := capsys.readouterr().err) and "AWS_ENDPOINT_URL" in said
    assert "test-secret" not in said
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ConfigError, match="cannot be used"):
        open_store(gs)


@pytest.mark.slow
def test_a_server_that_knows_no_such_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(tmp_path / "s3", free_port()) as endpoint:
        for name, value in s3_variables(endpoint).items():
            monkeypatch.setenv(name, value)
        uri = f"s3://{make_bucket(endpoint)}/x"
        # From now on this server checks keys, and knows none.
        plain = {"Content-Type": "text/plain"}
        switch = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", b"0", plain)
        assert urllib.request.urlopen(switch, timeout=60).status == 200
        with pytest.raises(ConfigError, match=r"no permission .*AWS_ACCESS_KEY_ID") as refused:
            open_store(uri)
        assert "test-secret" not in str(refused.value)


class Gate:
    """A way to a server that can be shut and opened: connections break, and later ones are refused."""

    def __init__(self, endpoint: str) -> None:
        host, port = endpoint.removeprefix("http://").split(":")
        self.target, self.port = (host, int(port)), free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        #: Bytes that may still pass towards the server; then it shuts by itself.
        self.left = math.inf
        self.open()

    def open(self) -> None:
        self.pairs: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def shut(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for one in self.pairs:
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                here = listener.accept()[0]
            except OSError:
                return
            there = socket.create_connection(self.target)
            self.pairs += [here, there]
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self._carry, args=(source, sink, source is here), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, inward: bool) -> None:
        try:
            while data := source.recv(65536):
                self.left -= len(data) if inward else 0
                if self.left < 0:
                    self.left = math.inf
                    self.shut()
                    return
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, sink):
                one.close()


@pytest.mark.slow
def test_a_server_that_goes_away_for_a_while(s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(s3_endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", gate.endpoint)
    store = open_store(s3, patience=60.0)
    store.write("a", b"1")
    gate.shut()
    threading.Timer(3.0, gate.open).start()
    store.write("a", b"2")
    assert store.read("a") == b"2"
    gate.shut()
    hasty = reopen(store.uri, patience=1.0)
    with pytest.raises(StorageLostError, match="reading a failed"):
        hasty.read("a")
    gate.open()
    assert hasty.read("a") == b"2"
    gate.shut()


@pytest.mark.slow
def test_a_connection_that_breaks_in_a_large_file(s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints travel in parts: a file is the old one until all of the new one is there, and a failure is told."""
    gate = Gate(s3_endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", gate.endpoint)
    old, new = b"old", random.Random(0).randbytes(12 * 2**20)
    store = open_store(s3, patience=60.0)
    store.write("a", old)
    gate.left = 11 * 2**20  # in the second of two parts
    with pytest.raises(StorageLostError, match="writing a failed"):
        reopen(store.uri, patience=0.0).write("a", new)
    gate.open()
    assert store.read("a") == old
    gate.left = 11 * 2**20  # in the second of two parts
    threading.Timer(5.0, gate.open).start()
    store.write("a", new)
    assert store.read("a") == new
    gate.shut()


@pytest.mark.slow
def test_names_in_a_bucket_that_lead_out_are_refused(s3: str, s3_endpoint: str, tmp_path: Path) -> None:
    """Written by somebody else, not by way of pyarrow or boto3, which would resolve them."""
    bucket, prefix = s3.removeprefix("s3://").split("/")
    server = http.client.HTTPConnection(s3_endpoint.removeprefix("http://"), timeout=60)

    def ask(method: str, key: str, body: bytes | None = None) -> int:
        who = {"Authorization": "AWS4-HMAC-SHA256 Credential=test-access/20260101/us-east-1/s3/aws4_request"}
        server.request(method, f"/{bucket}/{urllib.parse.quote(key)}", body, who)
        answer = server.getresponse()
        answer.read()
        return answer.status

    store = open_store(s3)
    store.write("mine/a", b"x")
    for name in ("../../evil", "a/../../evil", "back\\slash"):
        key = f"{prefix}/mine/{name}"
        assert ask("PUT", key, b"evil") == 200
        with pytest.raises(DataError, match="is no name under a study's storage"):
            store.inside("mine").list()
        assert ask("DELETE", key) == 204
    assert list(store.inside("mine").list()) == ["a"]


def test_the_doctor_looks_at_shared_storage_too(uri: str) -> None:
    assert "can be written, read and listed" in doctor._storage(uri)
    with pytest.raises(ConfigError):
        doctor._storage("s3://no_such/../x")


def test_the_line_that_resumes_names_the_storage_and_the_home(tmp_path: Path) -> None:
    """As a report prints it, and as a stopped study was given it."""
    for home, more in (("runs", []), (str(tmp_path / "mine"), ["--set", f"execution.home={tmp_path / 'mine'}"])):
        settings = {"storage_path": "s3://bucket/studies", "home": home, "name": "x"}
        study, execution, _ = make_configs("digits", {"execution": settings})
        place = Path(home) / "x"
        words = shlex.split(study_command(SimpleNamespace(config=study, execution=execution, name="x", place=place)))  # type: ignore[arg-type]
        at = words.index("--storage-path")
        assert words[at : at + 2 + len(more)] == ["--storage-path", "s3://bucket/studies", *more]
        flags = parser().parse_args(words[2:])
        assert configure(flags)[1].home == home
