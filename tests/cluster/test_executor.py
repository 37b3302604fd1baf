"""Where Ray is looked for, before it is."""

import socket
from pathlib import Path

import pytest

from divfeat.cluster.executor import RayExecutor, _check_answers
from divfeat.errors import ConfigError


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "127.0.0.1:99999"])
def test_an_address_where_nothing_listens_is_told_at_once(address: str, tmp_path: Path) -> None:
    """Ray would wait for minutes."""
    given = address.format(port=closed_port())
    with pytest.raises(ConfigError, match=f"--address {given}: nothing answers there .*; leave --address out"):
        RayExecutor(workers=1, cpus=1.0, gpus=0.0, address=given, storage=tmp_path, max_concurrent=None)


def test_what_answers_and_what_ray_looks_up_passes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        _check_answers(f"127.0.0.1:{server.getsockname()[1]}")
    for name in ("auto", "local", "anyscale://somewhere"):
        _check_answers(name)
