"""``promptstage serve`` as a process: a graceful stop, and a restart on the same port after a kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

import promptstage as ps
from promptstage.serving.server import bind

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "tuned"
    ps.PromptTuning(ps.Backbone("embedded"), num_virtual_tokens=4).save(folder)
    return folder


def start(saved: Path, port: int) -> "subprocess.Popen[str]":
    """Start a server, and wait until it serves."""
    command = [sys.executable, "-m", "promptstage.cli", "serve", str(saved), f"--port={port}"]
    environment = {**os.environ, "PROMPTSTAGE_API_KEY": "secret"}
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == f"serving tuned at http://127.0.0.1:{port}/v1 (Ctrl-C stops)\n"
    return process


def options(port: int, **body: Any) -> dict[str, Any]:
    headers = {"Authorization": "Bearer secret"}
    values = {"model": "tuned", "prompt": "1+1", **body}
    return {
        "url": f"http://127.0.0.1:{port}/v1/completions",
        "json": values,
        "headers": headers,
        "timeout": 60,
    }


def test_it_restarts_after_a_kill_and_stops_gracefully(saved: Path) -> None:
    with bind("127.0.0.1", 0) as own:
        port = own.getsockname()[1]
    first = start(saved, port)
    long = {"stop": ["never"], "temperature": 2, "max_tokens": 150, "seed": 1}
    try:
        whole = httpx.post(**options(port, **long)).json()["choices"][0]["text"]
        with httpx.stream("POST", **options(port, **long, stream=True)) as answer:
            next(answer.iter_lines())
            first.kill()  # in the middle of a generation
        first.communicate(timeout=20)
    finally:
        first.kill()
    second = start(saved, port)
    try:
        busy = subprocess.run(
            [sys.executable, "-m", "promptstage.cli", "serve", str(saved), f"--port={port}"],
            capture_output=True,
            text=True,
        )
        assert busy.returncode == 2
        assert busy.stderr == f"error: port {port} of 127.0.0.1 cannot be used: Address already in use\n"
        with httpx.stream("POST", **options(port, **long, stream=True)) as answer:
            lines = answer.iter_lines()
            parts = [next(lines)]
            second.send_signal(signal.SIGTERM)
            parts += [line for line in lines if line]
        assert parts[-1] == "data: [DONE]"
        texts = [json.loads(part[6:])["choices"][0]["text"] for part in parts[:-1]]
        assert "".join(texts) == whole
        out, err = second.communicate(timeout=40)
        assert (second.returncode, out, err) == (143, "", "")
    finally:
        second.kill()
