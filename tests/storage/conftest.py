"""Every kind of storage for real: folders, and servers of S3 and GCS as processes on the loopback interface."""

from __future__ import annotations

import json
import secrets
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from divfeat.storage import Store, open_store
from tests.servers import free_port, gcs_server, make_bucket, s3_server, s3_variables

KINDS = ["file", pytest.param("s3", marks=pytest.mark.slow), pytest.param("gs", marks=pytest.mark.slow)]

#: Of these, for what takes long and rests on the contract: one where folders are real, one where they are not.
FEW = KINDS[:2]


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3"), free_port()) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def gcs_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with gcs_server(tmp_path_factory.mktemp("gcs"), free_port()) as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of an empty bucket; the environment is that of a user."""
    for name, value in s3_variables(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    return f"s3://{make_bucket(s3_endpoint)}/studies"


@pytest.fixture
def gs(gcs_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of an empty bucket; the environment is that of a user."""
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", gcs_endpoint)
    bucket = f"bucket-{secrets.token_hex(6)}"
    body = json.dumps({"name": bucket}).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{gcs_endpoint}/storage/v1/b?project=p", body, headers), timeout=30
    ) as answer:
        assert answer.status == 200
    return f"gs://{bucket}/studies"


@pytest.fixture(params=KINDS)
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty storage of each kind."""
    return uri_of(request.param, request, tmp_path)


def uri_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "file":
        (tmp_path / "a mount").mkdir()
        return (tmp_path / "a mount" / "studies").as_uri()
    return str(request.getfixturevalue(kind))


@pytest.fixture
def store(uri: str) -> Store:
    return open_store(uri, patience=2.0)
