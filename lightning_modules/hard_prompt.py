"""Hard prompts: gradient-based search for a text that serves as the prompt.

``pez``: "Hard Prompts Made Easy: Gradient-Based Discrete Optimization for Prompt Tuning and Discovery", Wen
et al., 2023, arXiv:2302.03668, Algorithm 1. ``projected``: the gradient-descent variant of "AutoPrompt:
Eliciting Knowledge from Language Models with Automatically Generated Prompts", Shin et al., 2020,
arXiv:2010.15980, that PEZ compares with (AutoPrompt_SGD). ``langevin``: FluentPrompt, "Toward Human Readable
Prompt Tuning: Kubrick's The Shining is a good movie, and a good prompt too?", Shi et al., 2022,
arXiv:2212.10539.
"""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from promptstage.datamodules.encoding import IGNORED, Batch
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.functional.hard_prompt import (
    combined_loss,
    gradient_at_projection,
    noise_scale,
    step_noise,
)
from promptstage.lightning_modules.hard_vocabulary import HardVocabulary
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.prompt_module import BackboneLike
from promptstage.lightning_modules.text_prompt import TextPrompt
from promptstage.utilities.checks import check_between, check_maximum, check_minimum
from promptstage.utilities.errors import UserError, choose

Update = Literal["pez", "projected", "langevin"]
CLIP_NORM = 1.0


class HardPrompt(TextPrompt):
    """Prompt of m real tokens Q, found by gradients on continuous vectors P (m, d).

    In each step, the loss is computed with Q, the rows of the vocabulary nearest to P by cosine similarity,
    and its gradient is applied to P. Only Q is evaluated, and the Q with the highest validation accuracy (the
    lower loss on ties) is the result. It is a text: it is written before the content, followed by a line
    break, and gives the same logits when it is typed at the beginning of ``--data.template``.

    The loss is (1 − λ) times that of the task plus λ times the cross-entropy of the prompt's own tokens
    (fluency), λ ``fluency_weight``. Gradients are clipped at norm 1 unless ``--trainer.gradient_clip_val`` is
    given. After training, the text can be evaluated on another backbone: ``test --ckpt_path RUN
    --backbone.name OTHER`` encodes it there.

    Paper symbols: P is ``prompt``, m is ``num_virtual_tokens``.

    Logged values, besides those of every method: ``train/fluency`` (cross-entropy per token of the prompt,
    its log-perplexity) and ``val/improvements`` (number of validations that found a better prompt).

    Usage::

        promptstage fit --model HardPrompt --data Classification --data.task sst2 --data.source data/sst2

    Attributes:
        current_tokens: (m,) int64, tokens of Q.
        tokens: (m,) int64, tokens of the best Q so far.
    """

    monitor = ("val/improvements", "max")
    current_tokens: Tensor
    best_scores: Tensor
    improvements: Tensor
    noise_seed: Tensor

    def __init__(
        self,
        backbone: BackboneLike = BackboneConfig(),
        num_virtual_tokens: int = 10,
        update: Update = "pez",
        fluency_weight: float = 0.003,
        optimizer: OptimizerConfig = OptimizerConfig(kind="adafactor", lr=0.3),
        val_generations: int = 256,
    ) -> None:
        """
        Args:
            backbone: the frozen language model: its configuration, name or path, or a loaded one to share.
            num_virtual_tokens: number of tokens of the prompt (m); the papers use 10.
            update: ``pez``: P moves freely, Q is its projection. ``projected``: P is replaced by its
                projection after each step (AutoPrompt_SGD). ``langevin``: the same, after noise that
                decreases over the fit is added (FluentPrompt).
            fluency_weight: weight λ of the prompt's own cross-entropy, in [0, 1).
            optimizer: optimizer of P; PEZ uses Adafactor at a constant learning rate of 0.3.
            val_generations: validation questions to generate for at each validation, by whose accuracy the
                best prompt is selected; 0: by the loss alone.

        Raises:
            UserError: if a value is out of range, or the update is unknown.
        """
        super().__init__(backbone, optimizer, val_generations)
        check_minimum({"num_virtual_tokens": num_virtual_tokens}, 1)
        check_between({"fluency_weight": fluency_weight}, 0, 1)
        if fluency_weight == 1:
            raise UserError("fluency_weight must be < 1, since 1 ignores the task, got 1")
        choose("update", update, get_args(Update))
        self.num_virtual_tokens = num_virtual_tokens
        self.update = update
        self.fluency_weight = fluency_weight
        self._searching = False

    def configure_prompts(self, generator: torch.Generator) -> None:
        self.vocabulary = HardVocabulary(self.backbone)
        if self._initial_tokens is None:
            usable = self.vocabulary.usable
            limit = f"number of tokens of backbone '{self.backbone_config.name}' that survive as text"
            check_maximum({"num_virtual_tokens": self.num_virtual_tokens}, len(usable), limit)
            sampled = usable[torch.randperm(len(usable), generator=generator)[: self.num_virtual_tokens]]
            tokens = self.vocabulary.project(self.vocabulary.rows(sampled))
        else:
            tokens = torch.tensor(self._initial_tokens)
        self.prompt = nn.Parameter(self.vocabulary.rows(tokens).float().cpu().clone())
        self.register_buffer("current_tokens", tokens.clone())
        self.register_buffer("tokens", tokens.clone())
        self.register_buffer("best_scores", torch.tensor([-1.0, 0.0]))  # accuracy and loss
        self.register_buffer("improvements", torch.tensor(0))
        self.register_buffer("noise_seed", torch.tensor(generator.initial_seed() % 2**63))

    def used_tokens(self) -> Tensor:
        return self.current_tokens if self._searching else self.tokens

    def used_rows(self) -> Tensor:
        rows = super().used_rows()
        return gradient_at_projection(self.prompt, rows) if self._searching else rows

    def structure(self) -> dict[str, object]:
        return {"update": self.update}

    # --- training ---------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        self._searching = True
        super().on_fit_start()

    def teardown(self, stage: str) -> None:
        self._searching = False

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        task = super().training_step(batch, batch_idx)
        if not self.fluency_weight:
            return task
        fluency = self.cross_entropy()
        self._fluency = fluency.detach()
        count = int((batch.gold.labels != IGNORED).sum()) if len(batch) else 0
        return combined_loss(task, fluency, self.fluency_weight, count)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if self.fluency_weight and self.trainer.global_step % every == 0:
            self.log("train/fluency", self._fluency)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        value = CLIP_NORM if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, value, gradient_clip_algorithm)

    def configure_optimizers(self) -> Any:
        if self.update == "langevin" and math.isinf(self.trainer.estimated_stepping_batches):
            raise UserError("update 'langevin' needs trainer.max_steps or trainer.max_epochs, got no limit")
        return super().configure_optimizers()

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        step, lr = self.trainer.global_step, optimizer.param_groups[0]["lr"]
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.finish_step(lr, step, self.trainer.estimated_stepping_batches)

    @torch.no_grad()
    def finish_step(self, lr: float, step: int, steps: float) -> None:
        """Project P after an optimizer step, and replace it as ``update`` says.

        Args:
            lr: learning rate of the step.
            step: number of optimizer steps before it.
            steps: number of optimizer steps of the fit.
        """
        if self.update == "langevin":
            noise = step_noise(tuple(self.prompt.shape), int(self.noise_seed), step).to(self.prompt)
            self.prompt.add_(noise, alpha=noise_scale(lr, step, int(steps)))
        self.current_tokens.copy_(self.vocabulary.project(self.prompt))
        if self.update != "pez":
            self.prompt.copy_(self.vocabulary.rows(self.current_tokens))
        if not self.improvements:
            self.tokens.copy_(self.current_tokens)

    # --- selection --------------------------------------------------------------------------------

    def on_validation_epoch_end(self) -> None:
        loss = float(self.loss_sum.compute() / self.token_sum.compute())
        answered = int(self.answered_sum.compute())
        accuracy = int(self.correct_sum.compute()) / answered if answered else 0.0
        super().on_validation_epoch_end()
        if self._searching and not self.trainer.sanity_checking:
            self.record_scores(accuracy, loss)
            self.log("val/improvements", self.improvements.float())

    def record_scores(self, accuracy: float, loss: float) -> None:
        """Make Q the result if its accuracy is the highest so far, or as high at a lower loss."""
        scores = torch.tensor([accuracy, loss]).to(self.best_scores)
        best_accuracy, best_loss = self.best_scores
        if scores[0] > best_accuracy or (scores[0] == best_accuracy and scores[1] < best_loss):
            self.best_scores.copy_(scores)
            self.tokens.copy_(self.current_tokens)
            self.improvements.add_(1)
