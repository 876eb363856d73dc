"""``promptstage lm-eval``: log-likelihoods equal a plain forward pass, and local tasks are evaluated."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import promptstage as ps
from promptstage.harness.language_model import PromptLM
from tests.tiny_folder import call

FIT = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "max_steps": 4, "lr": 0.03}
DATA = {"train_size": 96, "validation_size": 4, "max_new_tokens": 24}
pytestmark = pytest.mark.slow
PAIRS = [
    ("Question: 12+5\nAnswer:", " 17"),
    ("Question: 347+58\nAnswer: 7+8=15;", "4+5+1=10\n#### 405"),
    ("", "Question: 1+1"),
    ("Question: reverse cat\nAnswer: ", "tac"),
    ("Question: 9+9\nAnswer: 9+9=18\n####", " 18"),
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
"""
GENERATE = """
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\nQuestion:"], max_gen_toks: 24}
filter_list: [{name: last, filter: [{function: regex, regex_pattern: "(-?[0-9]+)", group_select: -1},
  {function: take_first}]}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
CHOICE = """
output_type: multiple_choice
doc_to_target: 0
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def backbone() -> ps.Backbone:
    return ps.Backbone("embedded")


@pytest.fixture(scope="module", params=["PromptTuning", "DHAM"])
def run(
    request: pytest.FixtureRequest, backbone: ps.Backbone, tmp_path_factory: pytest.TempPathFactory
) -> ps.Run:
    """A fit of four steps."""
    prompt = getattr(ps, request.param)(backbone, num_virtual_tokens=9)
    folder = tmp_path_factory.mktemp("harness") / "run"
    return ps.fit(prompt, ps.Generated(task="addition", **DATA), folder=folder, **FIT)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with a task like GSM8K and a multiple-choice task, of six questions each."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [
        {"question": f"{a}+{b}", "answer": str(a + b), "choices": [str(a + b), str(a + b + 1)]}
        for a, b in [(12, 30), (5, 17), (240, 11), (99, 1), (7, 7), (64, 32)]
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, rest in (("sums", GENERATE), ("choice", CHOICE)):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, file=folder / "sums.jsonl") + rest)
    return folder


def requests(arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [SimpleNamespace(args=args) for args in arguments]


def reference(prompt: ps.PromptTuning, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Log-probability by a forward pass over one text, and whether greedy decoding gives the continuation."""
    with torch.no_grad():
        logits = prompt.backbone(torch.tensor([context + continuation]), prompt.prefix())[0]
    rows = logits[len(context) - 1 : -1].double().log_softmax(-1)
    targets = torch.tensor(continuation)
    return float(rows.gather(1, targets[:, None]).sum()), bool((rows.argmax(-1) == targets).all())


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_log_likelihoods_equal_a_forward_pass(run: ps.Run, batch_size: int) -> None:
    model = PromptLM(run.prompt, batch_size)
    scores = model.loglikelihood(requests(PAIRS), disable_tqdm=True)
    for (context, continuation), (score, greedy) in zip(PAIRS, scores, strict=True):
        if context:
            ids = model._encode_pair(context, continuation)
        else:
            ids = [model.prefix_token_id], model.tok_encode(continuation, add_special_tokens=False)
        expected, likeliest = reference(run.prompt, *ids)
        assert score == pytest.approx(expected, abs=1e-4)
        assert greedy == likeliest


def test_rolling_log_likelihoods_predict_each_token_once(run: ps.Run) -> None:
    model = PromptLM(run.prompt, 4)
    text = "Question: 12+30\nAnswer: 2+0=2;1+3=4\n#### 42"
    tokens = model.tok_encode(text, add_special_tokens=False)
    (whole,) = model.loglikelihood_rolling(requests([(text,)]), disable_tqdm=True)
    assert whole == pytest.approx(reference(run.prompt, [model.prefix_token_id], tokens)[0], abs=1e-4)
    model.max_length = 16
    (parts,) = model.loglikelihood_rolling(requests([(text,)]), disable_tqdm=True)
    first = reference(run.prompt, [model.prefix_token_id], tokens[:16])[0]
    rest, done = 0.0, 16
    while done < len(tokens):
        end = min(done + 16, len(tokens))
        context = tokens[end - 17 : done]
        rest += reference(run.prompt, context, tokens[done:end])[0]
        done = end
    assert parts == pytest.approx(first + rest, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_generations_equal_those_of_the_prompt(run: ps.Run, batch_size: int) -> None:
    questions = ["12+30", "5+17", "240+11", "99+1", "7+7"]
    expected = run.prompt.generate(questions, max_new_tokens=24)
    options = {"until": ["\nQuestion:"], "max_gen_toks": 24}
    given = [(f"Question: {question}\nAnswer:", dict(options)) for question in questions]
    texts = PromptLM(run.prompt, batch_size).generate_until(requests(given), disable_tqdm=True)
    assert texts == [text.partition("\nQuestion:")[0] for text in expected]


def test_a_bos_before_the_prompt_is_not_repeated(backbone: ps.Backbone) -> None:
    prompt = ps.PromptTuning(backbone, num_virtual_tokens=5, bos_first=True)
    expected = prompt.generate(["12+30", "5+17"], max_new_tokens=24)
    model = PromptLM(prompt)
    given = [
        (f"Question: {question}\nAnswer:", {"until": [], "max_gen_toks": 24})
        for question in ("12+30", "5+17")
    ]
    assert model.generate_until(requests(given), disable_tqdm=True) == expected
    assert model.prefix_token_id not in model.tok_encode("Question: 1")


def test_samples_do_not_depend_on_the_batch(run: ps.Run) -> None:
    options = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 2.0}
    given = [(f"Question: {a}+1\nAnswer:", dict(options)) for a in range(5)]
    alone, together, other = (
        PromptLM(run.prompt, size, seed=seed).generate_until(requests(given), disable_tqdm=True)
        for size, seed in ((1, 0), (5, 0), (5, 1))
    )
    assert alone == together
    assert together != other


def test_local_tasks_are_evaluated_and_written_to_the_run(run: ps.Run, tasks: Path) -> None:
    command = ["--include-path", tasks, "--limit=5", "--batch-size=4"]
    outcome = call("lm-eval", run.folder, "--tasks=sums,choice", *command)
    assert outcome.code == 0, outcome.err
    (folder,) = run.folder.glob("lm_eval*")
    results = json.loads((folder / "results.json").read_text())
    assert results["n-samples"]["sums"]["effective"] == 5
    samples = [json.loads(line) for line in (folder / "samples_sums.jsonl").read_text().splitlines()]
    questions = [sample["doc"]["question"] for sample in samples]
    expected = run.prompt.generate(questions, max_new_tokens=24)
    assert [sample["resps"][0][0] for sample in samples] == [
        text.partition("\nQuestion:")[0] for text in expected
    ]
    right = sum(sample["exact_match"] for sample in samples)
    assert results["results"]["sums"]["exact_match,last"] == pytest.approx(right / 5)
    choices = [json.loads(line) for line in (folder / "samples_choice.jsonl").read_text().splitlines()]
    best = [max((0, 1), key=lambda i: float(sample["resps"][i][0][0])) for sample in choices]
    assert results["results"]["choice"]["acc,none"] == pytest.approx(best.count(0) / 5)
    assert "exact_match" in outcome.out
    assert outcome.out.splitlines()[-1].startswith("results are in ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "lm-eval needs a trained prompt: promptstage lm-eval RUN --tasks TASK"),
        (["RUN"], "lm-eval needs tasks: --tasks gsm8k,arc_easy"),
        (["RUN", "--tasks=sums", "--batch-size=0"], "--batch-size must be >= 1, got 0"),
        (["RUN", "--tasks=sums", "--limit=0"], "--limit must be > 0, got 0"),
        (["RUN", "--tasks=sums", "--limit=2.5"], "--limit must be an integer or a share below 1, got 2.5"),
        (["RUN", "--tasks=sums", "--gen-kwargs=x"], "--gen-kwargs must be NAME=VALUE[,NAME=VALUE], got 'x'"),
        (["RUN", "--tasks=sums", "--include-path=none"], "--include-path none is not a folder"),
        (["RUN", "--tasks=sums", "--system=x"], "--system needs --apply-chat-template"),
        (["RUN", "--task=sums"], "option --task is unknown: did you mean '--tasks'?"),
    ],
)
def test_mistakes_are_reported_in_one_line(arguments: list[str], message: str) -> None:
    outcome = call("lm-eval", *arguments)
    assert outcome.code == 2
    (line,) = outcome.errors
    assert line.startswith(f"error: {message}")


def test_tasks_that_fail_are_reported_in_one_line(run: ps.Run, tmp_path: Path) -> None:
    absent = {"task": "absent", "dataset_path": "json", "test_split": "test", "output_type": "generate_until"}
    absent |= {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "absent.jsonl")}}}
    absent |= {"doc_to_text": "{{question}}", "doc_to_target": "{{answer}}"}
    (tmp_path / "absent.yaml").write_text(yaml.safe_dump(absent), encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("task: [", encoding="utf-8")
    for task in (tmp_path / "absent.yaml", tmp_path / "broken.yaml"):
        outcome = call("lm-eval", run.folder, f"--tasks={task}")
        assert outcome.code == 2
        (line,) = [line for line in outcome.errors if line.startswith("error: ")]
        assert line.startswith(f"error: tasks {task} cannot be evaluated: ")
    assert len(list(run.folder.glob("lm_eval*"))) <= 1  # of the test above


def test_an_unsupported_generation_option_is_refused(run: ps.Run) -> None:
    given = [("Question: 1+1\nAnswer:", {"until": [], "num_beams": 4})]
    with pytest.raises(ps.UserError, match=r"must be among until, .* and top_p, got num_beams 4$"):
        PromptLM(run.prompt).generate_until(requests(given))


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr("promptstage.command_line.extras.import_module", without)
    outcome = call("lm-eval", "run", "--tasks=sums")
    assert outcome.errors == [
        "error: package lm_eval is not installed: run pip install 'promptstage[lm-eval]'"
    ]
