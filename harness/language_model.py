"""A trained prompt as a language model of lm-evaluation-harness.

"A framework for few-shot language model evaluation", Gao et al., 2024, https://zenodo.org/records/12608602.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from promptstage.composition.raw_texts import RawTexts
from promptstage.datamodules.chat import ChatTemplate
from promptstage.lightning_modules.backbone.continuation_scores import continuation_scores
from promptstage.lightning_modules.backbone.loading import context_length
from promptstage.lightning_modules.backbone.rows import Limits
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.draws import Draws, random_numbers
from promptstage.lightning_modules.decoding.pool import Job, Pool
from promptstage.utilities.errors import RunFailure, UserError

MAX_LENGTH = 2048  # tokens, if the backbone's configuration does not limit them
MAX_NEW_TOKENS = 256  # lm-evaluation-harness's default
# Generation options that are accepted with the value that changes nothing.
NEUTRAL = {"num_beams": 1, "top_k": 0, "repetition_penalty": 1.0, "min_p": 0.0}

Encoded = tuple[tuple[str, str], list[int], list[int]]


class PromptLM(TemplateLM):
    """Log-likelihoods and generations of a backbone behind a trained prompt.

    Texts follow the prompt as they are, in the tasks' own format.
    Results do not depend on the batch size.
    """

    backend = "causal"

    def __init__(
        self, prompt: SoftPromptModule, batch_size: int = 16, chat: bool = False, seed: int = 0
    ) -> None:
        """
        Args:
            prompt: the trained prompt.
            batch_size: number of texts that are run at a time.
            chat: contexts are rendered by the tokenizer's chat template.
            seed: seed of tasks that sample.

        Raises:
            UserError: if the method changes attention, or the tokenizer has no chat template.
        """
        super().__init__()
        prompt.check_unchanged_attention("lm-eval")
        prompt.create_prompts()
        with torch.no_grad():
            self.prefix = prompt.prefix()
        self.backbone = prompt.backbone
        self.tokenizer = self.backbone.tokenizer
        self.batch_size, self.seed = batch_size, seed
        self._texts = RawTexts(prompt, self.tokenizer)
        settings = prompt.text_settings.format
        self._chat = None
        if chat:
            self._chat = ChatTemplate(self.tokenizer, settings.date, None, settings.template_args)
        reserved = 0 if self.prefix is None else self.prefix.num_positions
        self.max_length = (context_length(prompt.backbone_config) or MAX_LENGTH + reserved) - reserved
        self._device = self.backbone.embedding.device

    # --- tokens -----------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        special = self._chat is None if add_special_tokens is None else add_special_tokens
        return self._texts.encode(string, special)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        assert self._chat is not None
        return self._chat.render(chat_history, add_generation_prompt)

    # --- log-likelihoods --------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        pairs = [self._fitted(context, continuation) for _, context, continuation in requests]
        lengths = [len(context) + len(continuation) for context, continuation in pairs]
        # Texts of similar lengths together, the longest first.
        order = sorted((i for i, pair in enumerate(pairs) if pair[1]), key=lambda i: -lengths[i])
        with _bar("Log-likelihoods", len(order), disable_tqdm) as bar:
            for begin in range(0, len(order), self.batch_size):
                chosen = order[begin : begin + self.batch_size]
                for i, result in zip(chosen, self._scores([pairs[i] for i in chosen]), strict=True):
                    results[i] = result
                bar.update(len(chosen))
        for (key, _, _), result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", key, result)
        return results

    def _fitted(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """Truncate a text on the left to what the backbone has positions for, with a token of context."""
        continuation = continuation[-self.max_length :]
        context = (context or [self.prefix_token_id])[-max(1, self.max_length + 1 - len(continuation)) :]
        return context, continuation

    def _scores(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        texts = [context + continuation for context, continuation in pairs]
        ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
        starts = torch.tensor([len(context) for context, _ in pairs])
        ends = torch.tensor([len(text) for text in texts])
        ids, starts, ends = (part.to(self.device) for part in (ids, starts, ends))
        sums, likeliest = continuation_scores(self.backbone, ids, starts, ends, self.prefix)
        if not sums.isfinite().all():
            raise RunFailure("log-likelihoods are not finite: check the backbone and the prompt")
        return list(zip(sums.tolist(), likeliest.tolist(), strict=True))

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        windows: list[Encoded] = []
        counts = []
        for (text,) in (request.args for request in requests):
            tokens = self.tok_encode(text, add_special_tokens=False)
            pairs = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1)
            parts = [make_disjoint_window(pair) for pair in pairs]
            windows += [(("", ""), context, continuation) for context, continuation in parts]
            counts.append(len(parts))
        scores = iter(self._loglikelihood_tokens(windows, disable_tqdm))
        return [sum(next(scores)[0] for _ in range(count)) for count in counts]

    # --- generations ------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        jobs: dict[Job, int] = {}
        for number, request in enumerate(requests):
            context, options = request.args
            limits = self._limits(options, number)
            tokens = self.tok_encode(context) or [self.prefix_token_id]
            room = self.max_length - limits.max_new_tokens
            if room < 1:
                raise UserError(
                    f"a task generates up to {limits.max_new_tokens} tokens, but the backbone has positions "
                    f"for {self.max_length} besides the prompt: set --gen-kwargs max_gen_toks=N"
                )
            jobs[Job.of(tokens[-room:], limits)] = number
        texts = [""] * len(requests)
        pool = Pool(self.backbone, self.prefix, self.batch_size)
        for job in sorted(jobs, key=lambda job: -len(job.tokens)):
            pool.submit(job)
        with _bar("Generations", len(jobs), disable_tqdm) as bar:
            while pool.busy:
                for job in self._step(pool):
                    texts[jobs[job]] = self._text(job)
                    bar.update()
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _limits(self, options: dict[str, Any], number: int) -> Limits:
        """Return the limits of a task's generation options.

        Raises:
            UserError: for an option that is not supported.
        """
        given = normalize_gen_kwargs(options, MAX_NEW_TOKENS)
        stop = tuple(text for text in given.pop("until") if text)
        most, sampled = int(given.pop("max_gen_toks")), given.pop("do_sample", False)
        temperature, top_p = float(given.pop("temperature", 1.0)), float(given.pop("top_p", 1.0))
        for name, value in given.items():
            if value is not None and value != NEUTRAL.get(name):
                raise UserError(
                    "generation options of tasks must be among until, max_gen_toks, do_sample, temperature "
                    f"and top_p, got {name} {value!r:.40}"
                )
        choose = None
        if sampled and temperature > 0:
            choose = Draws([random_numbers(self.seed, "lm-eval", number)], temperature, top_p)
        return Limits(most, stop, choose)

    def _step(self, pool: Pool) -> list[Job]:
        try:
            return pool.step()
        except FloatingPointError as error:
            raise RunFailure(str(error)) from error

    def _text(self, job: Job) -> str:
        (row,) = job.rows
        text = self.tokenizer.decode(row.tokens, skip_special_tokens=True)
        return postprocess_generated_text(text, list(row.limits.stop), None)


def _bar(what: str, total: int, disabled: bool) -> tqdm:
    """Return a progress bar, drawn in terminals only."""
    return tqdm(total=total, desc=what, unit="text", disable=disabled or not sys.stderr.isatty())
