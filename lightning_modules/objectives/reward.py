"""Training by reward: a policy gradient on sampled generations that are graded right or wrong.

Group-relative policy optimization (GRPO): "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open
Language Models", Shao et al., 2024, arXiv:2402.03300, §4.1. Each group is sampled from the present prompt and
used for one step, so that the ratio of its eq. 3 is 1 and clipping has no effect.
"""

from collections.abc import Sequence
from typing import Any

import torch

from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.rows import Row
from promptstage.lightning_modules.decoding.draws import Draws, random_numbers
from promptstage.lightning_modules.decoding.records import generated_tokens, grade_batch
from promptstage.lightning_modules.decoding.stream import Stream
from promptstage.lightning_modules.evaluation_steps import EvaluationSteps
from promptstage.lightning_modules.functional.policy_gradient import divergence_estimates, group_advantages
from promptstage.lightning_modules.objectives.base import Objective, StepLoss
from promptstage.utilities.errors import UserError


class Reward(Objective):
    """Policy gradient on ``group_size`` generations for each question.

    The reward of a generation is 1 if its answer is correct, else 0; its advantage is the reward normalized
    within the group. The loss per token is −advantage · ln π(token) + ``kl_weight`` · KL(π ‖ π₀), where π₀ is
    the backbone without a prompt; its gradient is summed over all generated tokens of an optimizer step and
    divided by their number, end tokens included. Generations are sampled at temperature 1, with random
    numbers that depend on seed, step, example and sample alone.

    Args:
        group_size: generations for each question (G).
        kl_weight: weight β of the divergence; 0: none, and no pass without the prompt.
    """

    metrics = ("train/reward", "train/mixed_groups", "train/kl", "train/new_tokens")
    monitor = ("val/accuracy", "max")

    def __init__(self, group_size: int, kl_weight: float) -> None:
        self.group_size, self.kl_weight = group_size, kl_weight

    def check(self, module: EvaluationSteps, data: Any) -> None:
        if module.backbone_config.shard != "none":
            raise UserError(
                "objective.kind reward generates in training: backbone.shard must be none, got "
                f"{module.backbone_config.shard}"
            )
        if (prediction := getattr(data, "prediction", "generation")) != "generation":
            raise UserError(
                f"objective.kind reward needs generated answers: data.prediction must be generation, got "
                f"{prediction}"
            )
        for callback in module.trainer.early_stopping_callbacks:
            if getattr(callback, "monitor", "") == "val/loss":
                raise UserError(
                    "objective.kind reward may raise val/loss while answers improve: set "
                    "--early_stopping.monitor val/accuracy --early_stopping.mode max"
                )

    def loss(self, module: EvaluationSteps, batch: Batch, prefix: Prefix | None) -> StepLoss:
        backbone, size = module.backbone, self.group_size
        try:
            rows = self._sample(module, batch, prefix)
        except FloatingPointError:  # all ranks fail together, before the optimizer step
            zero = torch.stack([parameter.sum() for parameter in module.trained_parameters()]).sum()
            return StepLoss(zero * torch.nan, 1)
        repeated = batch.select([place for place in range(len(batch)) for _ in range(size)])
        records = grade_batch(backbone.tokenizer, repeated, [row.tokens for row in rows])
        rewards = torch.tensor([record.correct for record in records]).double().view(-1, size)
        tokens = generated_tokens(repeated, [row.tokens + row.end for row in rows])
        losses, owners = backbone.label_losses(tokens.input_ids, tokens.labels, prefix)
        advantages = group_advantages(rewards).flatten().to(losses)
        total = (advantages[owners] * losses).sum()
        divergence = 0.0
        if self.kl_weight:
            with torch.no_grad():
                reference, _ = backbone.label_losses(tokens.input_ids, tokens.labels)
            divergences = divergence_estimates(losses, reference).sum()
            total, divergence = total + self.kl_weight * divergences, float(divergences.detach())
        mixed, count = float((rewards.amax(1) > rewards.amin(1)).sum()), rewards.numel()
        sums = {
            "train/reward": (float(rewards.sum()), count),
            "train/mixed_groups": (mixed, len(rewards)),
            "train/kl": (divergence, len(losses)),
            "train/new_tokens": (len(losses), count),
        }
        return StepLoss(total, len(losses), sums)

    @torch.no_grad()
    def _sample(self, module: EvaluationSteps, batch: Batch, prefix: Prefix | None) -> Sequence[Row]:
        """Sample ``group_size`` generations for each question, in its order."""
        seed = f"{_seed(module)}/{module.trainer.global_step}"
        numbers = range(self.group_size)
        randoms = [
            random_numbers(seed, example.id, number) for example in batch.examples for number in numbers
        ]
        stream = Stream(module.backbone, prefix, self.group_size, rows=len(batch) * self.group_size)
        questions = stream.advance(batch, Draws(randoms, 1.0, 1.0)) + stream.finish()
        return sorted((row for question in questions for row in question.rows), key=lambda row: row.index)


def _seed(module: EvaluationSteps) -> int:
    data: Any = module.trainer.datamodule  # type: ignore[attr-defined]  # set by a connector
    return data.seed
