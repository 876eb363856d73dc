"""Tasks of lm-evaluation-harness on a trained prompt, with results in the run folder."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import Any

import lm_eval
import torch
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable, make_table

from promptstage.composition.quiet import hide_loading_bar
from promptstage.harness.language_model import PromptLM
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.saved_prompts import load_prompt
from promptstage.utilities.checks import check_minimum, check_positive
from promptstage.utilities.errors import UserError, nearest
from promptstage.utilities.files import claim_folder, write_text
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.user_code import describe_error

FOLDER, RESULTS = "lm_eval", "results.json"


@dataclass(frozen=True)
class HarnessOptions:
    """Options of an evaluation.

    Attributes:
        tasks: names or patterns of tasks, groups and tags, or YAML files.
        include_path: folder of YAML task files; None: the tasks of lm-evaluation-harness alone.
        limit: number of questions of each task, or a share below 1; None: all.
        num_fewshot: number of demonstrations; None: each task's own.
        batch_size: number of texts that are run at a time.
        chat: render contexts with the tokenizer's chat template.
        system: system message; None: none.
        gen_kwargs: generation options that replace the tasks' own, as ``max_gen_toks=64,temperature=0.7``.
        seed: seed of demonstrations and of tasks that sample.
    """

    tasks: Sequence[str]
    include_path: str | None = None
    limit: float | None = None
    num_fewshot: int | None = None
    batch_size: int = 16
    chat: bool = False
    system: str | None = None
    gen_kwargs: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_minimum({"--batch-size": self.batch_size}, 1)
        check_minimum({"--num-fewshot": self.num_fewshot, "--seed": self.seed}, 0)
        check_positive({"--limit": self.limit})
        if self.limit is not None and self.limit > 1 and self.limit % 1:
            raise UserError(f"--limit must be an integer or a share below 1, got {self.limit}")
        for part in (self.gen_kwargs or "").split(",") if self.gen_kwargs is not None else []:
            if "=" not in part:
                raise UserError(f"--gen-kwargs must be NAME=VALUE[,NAME=VALUE], got '{self.gen_kwargs}'")
        if self.include_path is not None and not Path(self.include_path).is_dir():
            raise UserError(f"--include-path {self.include_path} is not a folder")
        if self.system is not None and not self.chat:
            raise UserError("--system needs --apply-chat-template")


def evaluate_run(path: str, options: HarnessOptions) -> tuple[str, Path]:
    """Evaluate a run, a checkpoint or a saved prompt, and write ``results.json`` and the samples.

    Returns:
        lm-evaluation-harness's table, and the folder of the results.

    Raises:
        UserError: if the prompt cannot be loaded, a task is unknown, or the folder cannot be written to.
    """
    hide_loading_bar()
    with task_errors(options.tasks):
        manager, names = find_tasks(options)
    prompt = load_prompt(path)
    assert isinstance(prompt, SoftPromptModule)
    if torch.cuda.is_available():
        prompt.to("cuda")
    folder, lock = claim_folder(run_of(path) / FOLDER)
    try:
        model = PromptLM(prompt, options.batch_size, options.chat, options.seed)
        with task_errors(options.tasks):
            results = _evaluated(model, options, manager, names)
        _write(results, folder)
    except BaseException:
        lock.release()
        if not any(folder.iterdir()):
            folder.rmdir()
        raise
    lock.release()
    tables = [make_table(results)]
    if results.get("groups"):
        tables.append(make_table(results, "groups"))
    return "\n".join(tables), folder


def run_of(path: str) -> Path:
    """Return the folder of a run that a folder or checkpoint belongs to."""
    own = Path(os.path.realpath(Path(path).expanduser()))
    if own.is_dir():
        return own
    return own.parent.parent if own.parent.name == "checkpoints" else own.parent


@contextmanager
def task_errors(names: Iterable[str]) -> Iterator[None]:
    """Report what fails in tasks in one line; failures of the prompt pass.

    Raises:
        UserError: naming the tasks and the cause.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        owners = (frame.f_locals.get("self") for frame, _ in walk_tb(error.__traceback__))
        if any(isinstance(owner, PromptLM) for owner in owners):
            raise
        raise UserError(f"tasks {', '.join(names)} cannot be evaluated: {describe_error(error)}") from error


def find_tasks(options: HarnessOptions) -> tuple[TaskManager, list[str]]:
    """Return the manager of all tasks, and the names that the options' patterns stand for.

    Raises:
        UserError: if a task is unknown.
    """
    files = {name for name in options.tasks if name.endswith((".yaml", ".yml")) and Path(name).is_file()}
    own = None
    if options.include_path is not None or len(files) == len(set(options.tasks)):
        # The index of all tasks takes ten seconds.
        own = TaskManager(include_path=options.include_path, include_defaults=False)
    known = set() if own is None else set(own.all_tasks)
    if own is None or not set(options.tasks) <= known | files:
        own = TaskManager(include_path=options.include_path)
    names: list[str] = []
    for name in dict.fromkeys(options.tasks):
        matches = [name] if name in files else own.match_tasks([name])
        if not matches:
            close = nearest(name, own.all_tasks).partition("Allowed:")[0].strip()
            hint = close if close.startswith("did you mean") else "'lm-eval ls tasks' lists all"
            raise UserError(f"task '{name}' is unknown: {hint}")
        names += matches
    return own, names


def _evaluated(
    model: PromptLM, options: HarnessOptions, manager: TaskManager, names: list[str]
) -> dict[str, Any]:
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=list(names),
        num_fewshot=options.num_fewshot,
        batch_size=options.batch_size,
        limit=options.limit,
        system_instruction=options.system,
        apply_chat_template=options.chat,
        gen_kwargs=options.gen_kwargs,
        task_manager=manager,
        random_seed=options.seed,
        numpy_random_seed=options.seed,
        torch_random_seed=options.seed,
        fewshot_random_seed=options.seed,
    )
    assert results is not None  # there is one rank
    plain: dict[str, Any] = json.loads(json.dumps(results, default=handle_non_serializable))
    return plain


def _write(results: dict[str, Any], folder: Path) -> None:
    """Write ``results.json``, and a line for each question to ``samples_TASK.jsonl``."""
    for task, samples in results.pop("samples", {}).items():
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in task)
        write_text(folder / f"samples_{name}.jsonl", "".join(f"{dump_json(line)}\n" for line in samples))
    write_text(folder / RESULTS, dump_json(results, indent=2) + "\n")
