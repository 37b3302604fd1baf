"""A study in a real Jupyter kernel: interrupted, resumed from a thread on a Ray of the user's, opened again."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

import divfeat
from divfeat.cli.tau_search import main

pytestmark = pytest.mark.slow

CALL = 'divfeat.study("digits", name="s", smoke_test=True, storage_path="runs")'
HANDLERS = "[signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]"


class Kernel:
    """Executes cells; keeps what they sent to the browser."""

    def __init__(self, folder: Path) -> None:
        self.manager, self.client = start_new_kernel(cwd=str(folder))

    def run(self, code: str) -> tuple[str, str, Counter[str]]:
        """Name of the error, or "", all that was said, and how many messages of each kind there were."""
        said, kinds = [], Counter()

        def hear(message):
            kinds[message["msg_type"]] += 1
            content = message["content"]
            said.append(content.get("text") or content.get("data", {}).get("text/plain") or "")

        reply = self.client.execute_interactive(code, allow_stdin=False, output_hook=hear, timeout=900)["content"]
        return reply.get("ename", ""), "\n".join([*said, reply.get("evalue", "")]), kinds

    def interrupt_after(self, folder: Path, records: int) -> threading.Thread:
        def wait():
            while len(list(folder.glob("runs/*/record.json"))) < records:
                time.sleep(0.1)
            self.manager.interrupt_kernel()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(tmp_path):
    found = Kernel(tmp_path)
    yield found
    found.close()


def written(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/record.json")}


def test_interrupted_resumed_and_opened(kernel, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runs" / "s"
    assert kernel.run(f"import divfeat, ray, signal, threading; before = {HANDLERS}")[0] == ""

    # An interrupt saves: the error says how to go on, and the kernel is as it was.
    kernel.interrupt_after(folder, 3)
    error, said, kinds = kernel.run(CALL)
    assert error == "StoppedError" and "The same call goes on" in said, said
    assert "interrupting the kernel saves" in said and "Traceback" not in said
    # One table, replaced in place at most once a second, and no output for each of Tune's queues.
    assert kinds["display_data"] <= 4 and kinds["stream"] <= 5, (kinds, said)
    before = written(folder)
    assert len(before) >= 3
    assert kernel.run(f"assert {HANDLERS} == before; assert not ray.is_initialized()")[0] == ""

    # It goes on in a thread, on a Ray of the user's, which stays.
    started = (
        'ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)'
    )
    thread = f"""
{started}
found = []
thread = threading.Thread(target=lambda: found.append({CALL}))
thread.start()
thread.join()
assert ray.is_initialized() and len(ray.nodes()) == 1
print(found[0].verdict)
"""
    error, said, _ = kernel.run(thread)
    assert error == "" and "this is no main thread" in said, said
    after = written(folder)
    assert len(after) > len(before) and before.items() <= after.items()

    # A finished study is returned, and shown, without a run.
    error, said, _ = kernel.run(f"result = {CALL}\nresult")
    assert error == "" and written(folder) == after
    assert kernel.run("assert ray.is_initialized(); result.figure('search')")[2]["execute_result"] == 1

    # It is the command's study, and what the command leaves behind is the same.
    result = divfeat.open_study(folder)
    assert result.verdict in said
    monkeypatch.chdir(tmp_path)
    assert main(["--preset", "digits", "--name", "s", "--smoke-test", "--storage-path", "runs"]) == 0
    assert written(folder) == after and result.verdict in capsys.readouterr().out
