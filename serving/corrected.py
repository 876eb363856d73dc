"""Jobs whose answers are corrected by Dynamic Prompt Corruption (DPC), batch by batch.

"Improving complex reasoning with Dynamic Prompt Corruption", Fan et al., ICLR 2025, arXiv:2503.13208.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch

from promptstage.callbacks.dpc.files import (
    Calibration,
    CalibrationConditions,
    calibration_file,
    read_calibration,
)
from promptstage.datamodules.collate import Collate
from promptstage.datamodules.encoding import Batch, Example, encode
from promptstage.datamodules.templates import Template
from promptstage.datamodules.token_ids import adds_bos
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.corruption import Corruption
from promptstage.lightning_modules.decoding.dpc import DPCDecoder
from promptstage.lightning_modules.decoding.engines import Greedy
from promptstage.lightning_modules.decoding.pool import Job
from promptstage.lightning_modules.saved_prompts import checkpoint_in
from promptstage.utilities.errors import UserError
from promptstage.utilities.reading import read_typed

PRECISION = "32-true"


@dataclass(eq=False)
class QuestionJob(Job):
    """Job of a question whose answer is corrected.

    Attributes:
        question: its text.
        text: the final answer.
        new_tokens: number of its tokens.
    """

    question: str = ""
    text: str = ""
    new_tokens: int = 0


class CorrectedPool:
    """Jobs that run batch by batch, each corrected by DPC with its run's calibrated threshold."""

    def __init__(self, prompt: SoftPromptModule, path: str, places: int) -> None:
        """
        Args:
            path: run folder or checkpoint of the prompt, with the threshold beside the checkpoint.
            places: number of questions in a batch.

        Raises:
            UserError: if there is no soft prompt, or no threshold that was calibrated for greedy decoding at
                the precision of the server.
        """
        if prompt.evaluation_prefix() is None or not prompt.vectors():
            raise UserError(f"{type(prompt).__name__} has no soft prompt: DPC has nothing to corrupt")
        self._prompt, self._places = prompt, places
        calibration = _calibration(prompt, path)
        names = {field.name for field in fields(Corruption)}
        settings = {name: value for name, value in calibration.settings.items() if name in names}
        shallow = settings.get("shallow")
        settings["shallow"] = None if shallow is None else tuple(shallow)
        self._decoder = DPCDecoder(Greedy(), Corruption(**settings), "dpc", calibration.threshold, places)
        self._template = Template(prompt.text_settings.format, prompt.backbone.tokenizer)
        self._waiting: deque[QuestionJob] = deque()
        self._running: list[QuestionJob] = []

    @property
    def busy(self) -> bool:
        """Return whether a job is waiting."""
        return bool(self._waiting)

    def submit(self, job: Job) -> None:
        """Let a job wait for the next batch."""
        assert isinstance(job, QuestionJob)
        self._waiting.append(job)

    def step(self) -> list[Job]:
        """Answer the next jobs with the same limits.

        Raises:
            FloatingPointError: if logits are not finite; :meth:`clear` returns the jobs that are lost.
        """
        limits = self._waiting[0].rows[0].limits
        same = (limits.max_new_tokens, tuple(limits.stop))
        while self._waiting and len(self._running) < self._places:
            own = self._waiting[0].rows[0].limits
            if (own.max_new_tokens, tuple(own.stop)) != same:
                break
            self._running.append(self._waiting.popleft())
        batch = self._batch(self._running, *same)
        with torch.no_grad():
            self._decoder.begin(self._prompt)
            records = self._decoder.generate(batch) + self._decoder.flush()
        by_id = {record.id: record for record in records}
        done, self._running = self._running, []
        for number, job in enumerate(done):
            record = by_id[_id(number)]
            job.text, job.new_tokens = record.generation, record.new_tokens
        return list(done)

    def remove(self, jobs: Iterable[Job]) -> None:
        """Remove jobs that wait."""
        gone = set(jobs)
        self._waiting = deque(job for job in self._waiting if job not in gone)

    def clear(self) -> list[Job]:
        """Remove the jobs that are running, or all that wait if none is; return them."""
        lost, self._running = self._running, []
        if not lost:
            lost, self._waiting = list(self._waiting), deque()
        return list(lost)

    def _batch(self, jobs: Iterable[QuestionJob], max_new_tokens: int, stop: tuple[str, ...]) -> Batch:
        tokenizer = self._prompt.backbone.tokenizer
        examples = [Example(_id(number), job.question, "", "", "") for number, job in enumerate(jobs)]
        has_bos = getattr(self._prompt, "bos_first", False) and adds_bos(tokenizer)
        omitted = tokenizer.bos_token_id if has_bos else None
        collate = Collate(tokenizer.pad_token_id, "", max_new_tokens, stop, omitted, "text")
        rows = encode(examples, self._template, tokenizer)
        return collate([rows[place] for place in range(len(rows))]).to(self._prompt.device)


def _id(number: int) -> str:
    return f"request/{number}"


def _calibration(prompt: SoftPromptModule, path: str) -> Calibration:
    """Read the threshold beside a run's checkpoint."""
    checkpoint = checkpoint_in(path)
    file = calibration_file(checkpoint)
    dataset = prompt.text_settings.dataset or ""
    dtype = str(prompt.backbone.dtype).removeprefix("torch.")
    if not file.exists():
        command = f"promptstage calibrate --ckpt_path {path} --trainer.callbacks DPC"
        raise UserError(f"--dpc needs a calibrated threshold: run '{command}' first")
    settings = read_typed(Calibration, file, "calibration").settings
    if settings.get("decoder", {"name": "Greedy"}).get("name") != "Greedy":
        raise UserError(f"{file} was not calibrated with greedy decoding, which serve uses with DPC")
    return read_calibration(file, checkpoint, CalibrationConditions(dataset, settings, PRECISION, dtype))
