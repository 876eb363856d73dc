"""Requests as generations, and generations as OpenAI's objects."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from promptstage.lightning_modules.backbone.rows import Limits
from promptstage.lightning_modules.decoding.draws import Draws, random_numbers
from promptstage.lightning_modules.decoding.pool import Job
from promptstage.serving.corrected import QuestionJob
from promptstage.serving.engine import Generation
from promptstage.serving.errors import APIError
from promptstage.serving.models import ServedModel
from promptstage.serving.output import ended, final_text
from promptstage.serving.requests import Sampled

CHAT, TEXT = "chat.completion", "text_completion"


def generation_of(
    model: ServedModel,
    request: Sampled,
    tokens: list[int],
    most: int | None,
    most_allowed: int | None = None,
    question: str | None = None,
    number: int = 0,
) -> Generation:
    """Return the generation of a prompt.

    Args:
        tokens: the prompt.
        most: limit of new tokens; None: that of the prompt's training data, or less if there is no room.
        most_allowed: upper bound of this default; None: none.
        question: the text that DPC answers.
        number: number of the prompt in the request.

    Raises:
        APIError: if the prompt is empty, has unknown tokens, or does not fit in the context.
    """
    if not tokens:
        raise APIError(400, "the prompt has no tokens")
    vocabulary = model.prompt.backbone.vocab_size
    if not all(0 <= token < vocabulary for token in tokens):
        raise APIError(400, f"a token of the prompt is not in 0 to {vocabulary - 1}")
    settings = model.prompt.text_settings
    room = model.most_positions - len(tokens)
    new = min(settings.max_new_tokens, room, most_allowed or room) if most is None else most
    if new > room or room < 1:
        raise APIError(
            400,
            f"the prompt has {len(tokens)} tokens and max_tokens is {max(new, 1)}, but the model has "
            f"positions for {model.most_positions} besides the soft prompt",
            code="context_length_exceeded",
        )
    stop = request.stops or settings.stop
    if question is not None:
        return Generation(model, _question(request, tokens, Limits(new, stop), question), request.stream)
    choose = None
    if request.temperature > 0:
        seed = secrets.randbits(64) if request.seed is None else request.seed
        names = range(request.n)
        randoms = [random_numbers(seed, f"prompt/{number}", sample) for sample in names]
        choose = Draws(randoms, request.temperature, request.top_p)
    return Generation(model, Job.of(tokens, Limits(new, stop, choose), request.n), request.stream)


def _question(request: Sampled, tokens: list[int], limits: Limits, question: str) -> QuestionJob:
    """
    Raises:
        APIError: if the request samples, or asks for several answers.
    """
    for name, value, only in (("temperature", request.temperature, 0), ("n", request.n, 1)):
        if value != only:
            raise APIError(400, f"{name} must be {only} with DPC, got {value:g}", param=name)
    job = QuestionJob.of(tokens, limits)
    assert isinstance(job, QuestionJob)
    job.question = question
    return job


def texts_of(generation: Generation) -> list[tuple[str, str]]:
    """Return the text and finish reason of each sample of a finished generation."""
    job = generation.job
    if isinstance(job, QuestionJob):
        limits = job.rows[0].limits
        return [ended(job.text, limits, job.new_tokens)]
    return [final_text(generation.model.texts.tokenizer, row) for row in job.rows]


def usage_of(generations: Sequence[Generation]) -> dict[str, int]:
    """Return the numbers of tokens, without virtual ones and end tokens."""
    prompt = sum(len(generation.job.tokens) for generation in generations)
    new = sum(map(_new_tokens, generations))
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def _new_tokens(generation: Generation) -> int:
    job = generation.job
    return job.new_tokens if isinstance(job, QuestionJob) else sum(len(row.tokens) for row in job.rows)


class Answer:
    """OpenAI's objects for one request."""

    def __init__(self, model: ServedModel, chat: bool) -> None:
        self._chat = chat
        kind = "chatcmpl" if chat else "cmpl"
        self._about = {
            "id": f"{kind}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model.name,
        }

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """Return the object of finished generations."""
        texts = [pair for generation in generations for pair in texts_of(generation)]
        choices = [
            {"index": index, **self._text(text), "logprobs": None, "finish_reason": reason}
            for index, (text, reason) in enumerate(texts)
        ]
        kind = CHAT if self._chat else TEXT
        return {**self._about, "object": kind, "choices": choices, "usage": usage_of(generations)}

    def _text(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}

    def part(self, index: int, text: str, reason: str | None = None, first: bool = False) -> dict[str, Any]:
        """Return a part of a stream.

        Args:
            first: it is the first of its choice.
        """
        delta: dict[str, Any] = {"text": text}
        if self._chat:
            role = {"role": "assistant"} if first else {}
            delta = {"delta": role | ({"content": text} if text or first else {})}
        choice = {"index": index, **delta, "logprobs": None, "finish_reason": reason}
        return {**self._about, "object": self._part_kind, "choices": [choice]}

    def usage(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """Return the last object of a stream, with the numbers of tokens."""
        return {**self._about, "object": self._part_kind, "choices": [], "usage": usage_of(generations)}

    @property
    def _part_kind(self) -> str:
        return f"{CHAT}.chunk" if self._chat else TEXT
