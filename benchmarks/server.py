"""Throughput and memory of ``promptstage serve``: concurrent requests against one at a time.

python -m benchmarks.server                      # the embedded backbone, memory included
python -m benchmarks.server --backbone models/smollm2 --requests 16 --no-memory
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

import promptstage as ps

CONCURRENT = 64


def start(folder: Path) -> tuple["subprocess.Popen[str]", str]:
    """Start a server of a saved prompt; return its process and address."""
    command = [sys.executable, "-m", "promptstage.cli", "serve", str(folder), "--port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split(" at ")[1].split()[0]


async def ask(url: str, questions: list[str], concurrent: int, max_tokens: int) -> tuple[list[str], int]:
    """Return the answers to questions, and the number of their tokens."""
    free = asyncio.Semaphore(concurrent)
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=concurrent)) as client:

        async def one(question: str) -> dict[str, Any]:
            body = {"model": "prompt", "prompt": f"Question: {question}\nAnswer:", "max_tokens": max_tokens}
            async with free:
                answer = await client.post(f"{url}/completions", json=body)
            answer.raise_for_status()
            values: dict[str, Any] = answer.json()
            return values

        answers = await asyncio.gather(*map(one, questions))
    texts = [answer["choices"][0]["text"] for answer in answers]
    return texts, sum(answer["usage"]["completion_tokens"] for answer in answers)


def measured(
    process: psutil.Process, url: str, questions: list[str], concurrent: int, max_tokens: int
) -> tuple[list[str], float, float]:
    """Return texts, tokens per second, and tokens per CPU second of the server."""
    cpu, begin = sum(process.cpu_times()[:2]), time.monotonic()
    texts, tokens = asyncio.run(ask(url, questions, concurrent, max_tokens))
    seconds = time.monotonic() - begin
    return texts, tokens / seconds, tokens / (sum(process.cpu_times()[:2]) - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--requests", type=int, default=CONCURRENT, help="requests one at a time")
    parser.add_argument("--max-tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true")
    options = parser.parse_args()
    questions = [f"{17 * i % 900 + 10}+{31 * i % 700 + 3}" for i in range(CONCURRENT)]
    with tempfile.TemporaryDirectory() as folder:
        prompt = ps.PromptTuning(ps.Backbone(options.backbone), num_virtual_tokens=16)
        prompt.save(Path(folder) / "prompt")
        del prompt
        server, url = start(Path(folder) / "prompt")
        process = psutil.Process(server.pid)
        try:
            asyncio.run(ask(url, questions[:2], 1, 4))
            for _ in range(options.repeats):
                some = questions[: options.requests]
                alone, slow, slow_cpu = measured(process, url, some, 1, options.max_tokens)
                together, fast, fast_cpu = measured(process, url, questions, CONCURRENT, options.max_tokens)
                same = sum(a == b for a, b in zip(alone, together, strict=False))
                print(
                    f"one at a time {slow:.1f} tokens/s, {CONCURRENT} at a time {fast:.1f}: ratio "
                    f"{fast / slow:.1f}; per CPU second {slow_cpu:.1f} and {fast_cpu:.1f}: ratio "
                    f"{fast_cpu / slow_cpu:.1f}; {same} of {len(alone)} texts are the same",
                    flush=True,
                )
            done = 0
            for count in () if options.no_memory else (200, 2000, 4000):
                more = [questions[i % CONCURRENT] for i in range(count - done)]
                asyncio.run(ask(url, more, CONCURRENT, 8))
                done = count
                size = process.memory_info().rss / (1 << 20)
                print(f"memory after {count} short requests: {size:.1f} MiB", flush=True)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
