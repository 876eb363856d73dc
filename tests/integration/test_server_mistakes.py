"""Mistakes of the server's clients and users, each answered in one line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import promptstage as ps
from promptstage.serving.application import Limits
from promptstage.serving.models import ServedModel, load_models
from tests.integration.served import serving
from tests.tiny_folder import call

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    """Two saved prompts."""
    folder, backbone = tmp_path_factory.mktemp("saved"), ps.Backbone("embedded")
    for name in ("tuned", "other"):
        ps.PromptTuning(backbone, num_virtual_tokens=4).save(folder / name)
    return load_models([str(folder / name) for name in ("tuned", "other")], 16)


@pytest.fixture(scope="module")
def url(models: dict[str, ServedModel]) -> Iterator[str]:
    with serving(models, Limits(places=16, queue=64, body=20_000)) as served:
        yield served.url


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)


USER = {"role": "user", "content": "a"}
COMPLETIONS: list[tuple[Any, int, str]] = [
    (b"{", 400, "the body is not valid JSON"),
    (b"[" * 10_000, 400, "the body is not valid JSON"),
    (b"[]", 400, "the body must be a JSON object"),
    (b'{"model": "tuned", "temperature": NaN}', 400, "the body is not valid JSON"),
    (b'{"model": "tuned", "prompt": "\\ud83d"}', 400, "a text of the body has a lone surrogate"),
    ({"model": None}, 400, "model: Field required"),
    ({"prompt": None}, 400, "prompt: Field required"),
    ({"prompt": []}, 400, "prompt: "),
    ({"prompt": "a" * 20_000}, 413, "the body must have at most 20000 bytes"),
    ({"prompt": "a " * 600}, 400, "the prompt has "),
    ({"prompt": [99_999]}, 400, "a token of the prompt is not in 0 to "),
    ({"max_tokens": 0}, 400, "max_tokens: "),
    ({"max_tokens": 10_000}, 400, "the prompt has 2 tokens and max_tokens is 10000"),
    ({"temperature": 3}, 400, "temperature: "),
    ({"temperature": "1"}, 400, "temperature: "),
    ({"n": 17}, 400, "n must be <= 16, got 17"),
    ({"prompt": ["a"] * 81}, 400, "n times the number of prompts must be <= 80, got 81"),
    ({"stop": [""]}, 400, "stop must be up to 16 texts"),
    ({"echo": True}, 400, "parameter echo is not supported"),
    ({"tempature": 1}, 400, "parameter 'tempature' is unknown: did you mean 'temperature'?"),
    ({"model": "tuner\u202e"}, 404, "model 'tuner\\u202e' does not exist: did you mean 'tuned'?"),
]
CHATS: list[tuple[Any, str]] = [
    ([], "messages: "),
    ([USER, USER], "messages must be "),
    ([{"role": "user", "content": " "}], "a message must not be empty"),
    ([{"role": "tool", "content": "a"}], "messages: "),
    ([{"role": "system", "content": "a"}, USER], "a system message needs a prompt that was trained with"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages: "),
]


@pytest.mark.parametrize(("body", "status", "message"), COMPLETIONS)
def test_a_bad_completion_is_refused_in_one_line(url: str, body: Any, status: int, message: str) -> None:
    values = (
        body if isinstance(body, bytes) else json.dumps({"model": "tuned", "prompt": "a"} | body).encode()
    )
    answer = httpx.post(f"{url}/completions", content=values, headers=JSON)
    error = answer.json()["error"]
    assert (answer.status_code, error["message"][: len(message)]) == (status, message)
    assert error["message"].isprintable()
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("messages", "message"), CHATS)
def test_a_bad_chat_is_refused_in_one_line(url: str, messages: Any, message: str) -> None:
    answer = httpx.post(f"{url}/chat/completions", json={"model": "tuned", "messages": messages})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)


def test_an_unknown_path_is_refused(url: str) -> None:
    answer = httpx.post(f"{url}/embeddings", json={})
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "there is no such endpoint")


def test_other_methods_hosts_and_content_types_are_refused(url: str) -> None:
    body = json.dumps({"model": "tuned", "prompt": "1"}).encode()
    for status, answer in (
        (405, httpx.get(f"{url}/completions")),
        (400, httpx.post(f"{url}/completions", content=body, headers={"Content-Type": "text/plain"})),
        (
            400,
            httpx.post(f"{url}/completions", content=body, headers=JSON | {"Host": "evil.example:80"}),
        ),
        (400, httpx.get(f"{url}/models", headers={"Host": "127.0.0.1.evil.example"})),
    ):
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
    assert httpx.get(f"{url}/models", headers={"Host": "LOCALHOST:1"}).status_code == 200


def test_a_body_without_a_declared_length_is_limited(url: str) -> None:
    parts = (b" " * 5_000 for _ in range(10))
    answer = httpx.post(f"{url}/completions", content=parts, headers=JSON)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


def test_a_wrong_key_is_refused(models: dict[str, ServedModel]) -> None:
    with serving(models, api_key="secret") as served:
        for key in ("other", "secret2", "sécret"):
            answer = httpx.get(f"{served.url}/models", headers={"Authorization": f"Bearer {key}".encode()})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=served.url, api_key="no").models.list()
        assert len(list(openai.OpenAI(base_url=served.url, api_key="secret").models.list())) == 2


def test_a_full_queue_is_refused_and_tokens_are_limited(models: dict[str, ServedModel]) -> None:
    with serving(models, Limits(places=16, queue=0, max_tokens=8)) as served:
        client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
        options: Any = {"model": "tuned", "prompt": "1", "temperature": 2, "stop": ["never"]}
        with pytest.raises(openai.BadRequestError, match="max_tokens must be <= 8, got 9"):
            client.completions.create(**options, max_tokens=9)
        assert client.completions.create(**options).usage.completion_tokens <= 8  # type: ignore[union-attr]
        models["tuned"].pending += 10
        try:
            with pytest.raises(openai.RateLimitError, match="has 10 generations to run: try again later"):
                client.completions.create(**options, n=7)
            assert len(client.completions.create(**options, n=6).choices) == 6
        finally:
            models["tuned"].pending -= 10


def test_a_failure_in_one_batch_ends_its_requests_alone(
    client: openai.OpenAI, models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise FloatingPointError("logits are not finite: check the backbone and the prompt")

    for part in ("_begin", "_joining"):
        monkeypatch.setattr(models["tuned"].jobs, part, fail)
        with pytest.raises(openai.InternalServerError, match="the generation has failed: FloatingPointError"):
            client.completions.create(model="tuned", prompt="1+1")
        assert client.completions.create(model="other", prompt="1+1").choices
        monkeypatch.undo()
    assert client.completions.create(model="tuned", prompt="1+1").choices


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "serve needs a trained prompt: promptstage serve RUN"),
        (["none"], "checkpoint none does not exist"),
        (["none", "--port=70000"], "--port must be between 0 and 65535, got 70000"),
        (["none", "--max-batch=0"], "--max-batch must be >= 1, got 0"),
        (["none", "--api-key="], "the API key must be a text of printable ASCII characters"),
        (["none", "--host=0.0.0.0", "--port=0"], "--host 0.0.0.0 can be reached from other machines: set"),
        (["none", "--host=no.such.host.invalid"], "host 'no.such.host.invalid' cannot be used: "),
        (["a=x", "a=y", "--port=0"], "two runs have the name 'a': give NAME=y"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROMPTSTAGE_API_KEY", raising=False)
    outcome = call("serve", *arguments)
    assert outcome.code == 2
    (line,) = outcome.errors
    assert line.startswith(f"error: {message}")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr("promptstage.command_line.extras.import_module", without)
    outcome = call("serve", "run")
    assert outcome.errors == ["error: package fastapi is not installed: run pip install 'promptstage[serve]'"]
