"""``promptstage serve``, driven by OpenAI's client: texts, batches, streams, DPC and ACT."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import promptstage as ps
from promptstage.callbacks.act.files import HeadSearch, save_search
from promptstage.serving.application import Limits
from promptstage.serving.models import ServedModel, load_models
from tests.integration.served import serving

FIT = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
DATA = {"train_size": 96, "validation_size": 4, "max_new_tokens": 32}
pytestmark = pytest.mark.slow
QUESTIONS = [f"{17 * i % 900 + 10}+{31 * i % 700 + 3}" for i in range(64)]
HEADS = {3: [0, 1], 5: [2]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ps.Run]:
    """Fits of prompt tuning and DHAM of four steps, the first with a calibrated threshold of DPC."""
    backbone, folder = ps.Backbone("embedded"), tmp_path_factory.mktemp("served")
    fits = {}
    for name, method in (("tuned", ps.PromptTuning), ("stages", ps.DHAM)):
        data = ps.Generated(task="addition", **DATA)
        prompt = method(backbone, num_virtual_tokens=9)
        fits[name] = ps.fit(prompt, data, folder=folder / name, max_steps=4, lr=0.03, **FIT)
    fits["tuned"].calibrate(4, callbacks=[ps.DPC()], **FIT)
    return fits


@pytest.fixture(scope="module")
def heads(runs: dict[str, ps.Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ``act.json``."""
    backbone = runs["tuned"].prompt.backbone
    file = tmp_path_factory.mktemp("heads") / "act.json"
    about: dict[str, Any] = {
        "split": "train",
        "data": "addition",
        "template": "plain",
        "method": "PromptTuning",
    }
    about |= {"backbone": backbone.config.name, "fingerprint": backbone.fingerprint}
    settings: dict[str, Any] = {"threshold": 0.1, "beta": 0.1, "soft_tokens": True, "examples": 1}
    save_search(HeadSearch(heads=HEADS, without=0, together=0, counts={}, **settings, **about), file)
    return file


@pytest.fixture(scope="module")
def models(runs: dict[str, ps.Run], heads: Path) -> dict[str, ServedModel]:
    both = [str(run.folder) for run in runs.values()]
    return load_models(both, 16) | load_models([f"first={both[0]}"], 16, dpc=True, act=str(heads.parent))


@pytest.fixture(scope="module")
def url(models: dict[str, ServedModel]) -> Iterator[str]:
    with serving(models, Limits(places=16, queue=64, body=20_000)) as served:
        yield served.url


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)


def question(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_models_are_listed(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["tuned", "stages", "first", "first-dpc", "first-act"]
    assert client.models.retrieve("stages").owned_by == "promptstage"


def test_runs_share_their_backbone(models: dict[str, ServedModel]) -> None:
    assert models["tuned"].prompt.backbone is models["stages"].prompt.backbone


@pytest.mark.parametrize("name", ["tuned", "stages"])
def test_chats_and_completions_are_the_texts_of_the_prompt(
    name: str, client: openai.OpenAI, runs: dict[str, ps.Run]
) -> None:
    expected = runs[name].prompt.generate(QUESTIONS[:4])
    for text, answer in zip(QUESTIONS[:4], expected, strict=True):
        chat = client.chat.completions.create(model=name, messages=question(text))
        prompt = f"Question: {text}\nAnswer:"
        completion = client.completions.create(model=name, prompt=prompt)
        assert chat.choices[0].message.content == completion.choices[0].text == answer
        tokenizer = runs[name].prompt.backbone.tokenizer
        assert chat.usage is not None
        assert chat.usage.prompt_tokens == len(tokenizer(prompt)["input_ids"])
        assert chat.usage.completion_tokens == len(tokenizer(answer, add_special_tokens=False)["input_ids"])


def test_concurrent_requests_have_the_texts_of_single_ones(url: str, runs: dict[str, ps.Run]) -> None:
    names = list(runs)

    async def ask_all() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            calls = [
                client.chat.completions.create(model=names[i % 2], messages=question(text))
                for i, text in enumerate(QUESTIONS)
            ]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*calls)]

    alone = {name: runs[name].prompt.generate(QUESTIONS) for name in names}
    assert asyncio.run(ask_all()) == [alone[names[i % 2]][i] for i in range(len(QUESTIONS))]


def test_earlier_turns_are_demonstrations(client: openai.OpenAI, runs: dict[str, ps.Run]) -> None:
    turns = [*question("1+2"), {"role": "assistant", "content": "1+2=3\n#### 3"}, *question("5+6")]
    chat = client.chat.completions.create(model="tuned", messages=turns, max_tokens=16)
    text = "Question: 1+2\nAnswer: 1+2=3\n#### 3\n\nQuestion: 5+6\nAnswer:"
    completion = client.completions.create(model="tuned", prompt=text, max_tokens=16)
    assert chat.choices[0].message.content == completion.choices[0].text
    assert chat.usage == completion.usage


@pytest.mark.parametrize("stop", [None, ["\n", "="], "#### "])
@pytest.mark.parametrize("n", [1, 3])
def test_the_parts_of_a_stream_are_the_text(client: openai.OpenAI, stop: Any, n: int) -> None:
    options: Any = {"model": "stages", "messages": question("347+58"), "stop": stop, "n": n, "seed": 3}
    options |= {"temperature": 1.5} if n > 1 else {}
    whole = client.chat.completions.create(**options)
    parts = list(
        client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
    )
    texts = [
        "".join(
            choice.delta.content or "" for part in parts for choice in part.choices if choice.index == index
        )
        for index in range(n)
    ]
    assert texts == [choice.message.content for choice in whole.choices]
    reasons = {
        choice.index: choice.finish_reason
        for part in parts
        for choice in part.choices
        if choice.finish_reason
    }
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert parts[-1].usage == whole.usage
    assert stop or len(parts) > 5 * n


def test_a_stop_string_is_cut_off(client: openai.OpenAI) -> None:
    prompt = "Question: 347+58\nAnswer:"
    (whole,) = client.completions.create(model="tuned", prompt=prompt, stop=["never"]).choices
    (cut,) = client.completions.create(model="tuned", prompt=prompt, stop=["="]).choices
    assert (cut.text, cut.finish_reason) == (whole.text.partition("=")[0], "stop")
    (short,) = client.completions.create(model="tuned", prompt=prompt, max_tokens=3).choices
    assert (short.text, short.finish_reason) == (whole.text[: len(short.text)], "length")


def test_samples_depend_on_the_seed_alone(client: openai.OpenAI) -> None:
    prompts = ["Question: 1+1\nAnswer:", "Question: 12+30\nAnswer:"]
    options: Any = {"model": "tuned", "temperature": 2.0, "top_p": 0.95, "max_tokens": 12}

    def texts(**changes: Any) -> list[str]:
        answer = client.completions.create(**(options | {"prompt": prompts, "n": 2, "seed": 5} | changes))
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        return [choice.text for choice in answer.choices]

    assert len(texts()) == 4
    assert texts() == texts()
    assert texts(prompt=prompts[0]) == texts()[:2]
    assert texts(seed=6) != texts()
    assert len(set(texts(prompt=prompts[0], n=8, seed=None))) > 1


def test_prompts_may_be_token_ids(client: openai.OpenAI, runs: dict[str, ps.Run]) -> None:
    text = "Question: 12+30\nAnswer:"
    ids = runs["tuned"].prompt.backbone.tokenizer(text)["input_ids"]
    answers = client.completions.create(model="tuned", prompt=[ids, ids])
    (alone,) = client.completions.create(model="tuned", prompt=text).choices
    assert [choice.text for choice in answers.choices] == [alone.text] * 2


def test_dpc_gives_the_answers_of_its_callback(client: openai.OpenAI, runs: dict[str, ps.Run]) -> None:
    records = runs["tuned"].predict(QUESTIONS[:6], callbacks=[ps.DPC()], **FIT)
    for text, record in zip(QUESTIONS[:6], records, strict=True):
        answer = client.chat.completions.create(model="first-dpc", messages=question(text))
        assert answer.choices[0].message.content == record.generation.partition("\nQuestion:")[0]
        assert answer.usage is not None
        assert answer.usage.completion_tokens == record.new_tokens
    parts = list(
        client.chat.completions.create(model="first-dpc", messages=question(QUESTIONS[0]), stream=True)
    )
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text == records[0].generation.partition("\nQuestion:")[0]


def test_act_gives_the_answers_of_its_callback(
    url: str, runs: dict[str, ps.Run], heads: Path, client: openai.OpenAI
) -> None:
    callback = ps.ACT(heads=heads, threshold=0.1, beta=0.1)
    expected = [
        record.generation for record in runs["tuned"].predict(QUESTIONS[:6], callbacks=[callback], **FIT)
    ]

    async def ask_all() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as own:
            calls = [
                own.chat.completions.create(model=name, messages=question(text))
                for text in QUESTIONS[:6]
                for name in ("first-act", "first")
            ]
            answers = await asyncio.gather(*calls)
            return [answer.choices[0].message.content for answer in answers]

    assert asyncio.run(ask_all())[::2] == expected
    part = next(
        iter(client.chat.completions.create(model="first-act", messages=question("1+1"), stream=True))
    )
    assert part.choices[0].delta.role == "assistant"


def test_a_cancelled_stream_frees_its_place(client: openai.OpenAI, models: dict[str, ServedModel]) -> None:
    prompt = "Question: 347+58\nAnswer:"
    stream = client.completions.create(
        model="stages", prompt=prompt, n=16, stop=["never"], temperature=2, max_tokens=400, stream=True
    )
    next(iter(stream))
    assert models["stages"].pending == 16
    stream.close()
    end = time.monotonic() + 20
    while (models["stages"].pending or models["stages"].jobs.busy) and time.monotonic() < end:
        time.sleep(0.02)
    assert models["stages"].pending == 0
    assert not models["stages"].jobs.busy
    assert client.completions.create(model="stages", prompt=prompt).choices[0].text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 1}, "temperature must be 0 with DPC, got 1"),
        ({"n": 2}, "n must be 1 with DPC, got 2"),
        ({"messages": [{"role": "system", "content": "a"}, *question("1")]}, "answers single questions"),
    ],
)
def test_dpc_refuses_what_it_cannot_correct(
    client: openai.OpenAI, changes: dict[str, Any], message: str
) -> None:
    options: Any = {"model": "first-dpc", "messages": question("1+1")} | changes
    with pytest.raises(openai.BadRequestError, match=message):
        client.chat.completions.create(**options)
    with pytest.raises(openai.BadRequestError, match="use /v1/chat/completions"):
        client.completions.create(model="first-dpc", prompt="1+1")


def test_dpc_needs_a_calibrated_threshold(runs: dict[str, ps.Run]) -> None:
    with pytest.raises(ps.UserError, match="--dpc needs a calibrated threshold: run 'promptstage calibrate"):
        load_models([str(runs["stages"].folder)], 4, dpc=True)
