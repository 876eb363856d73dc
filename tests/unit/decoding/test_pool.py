"""Jobs of a pool have the tokens that each of them has alone, whoever joins or leaves."""

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.attention_calibration import AttentionCalibration, CalibratedHeads
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.rows import Limits
from promptstage.lightning_modules.decoding import pool as pools
from promptstage.lightning_modules.decoding.draws import Draws, random_numbers
from promptstage.lightning_modules.decoding.pool import Job, Pool
from tests.unit.backbone.tiny import moved, random_ids, tiny_backbone

LENGTHS = (3, 9, 1, 5, 7, 2, 8, 4)


def prefix_of(backbone: Backbone) -> Prefix | None:
    with torch.no_grad():
        return moved("dham", backbone).prefix()


def prompts() -> list[list[int]]:
    return [row.tolist() for row in random_ids(*LENGTHS)]


def alone(backbone: Backbone, prefix: Prefix | None, tokens: Sequence[int], limits: Limits) -> list[int]:
    ids: Tensor = torch.tensor([list(tokens)])
    ends = limits.max_new_tokens, limits.stop, limits.choose
    return generate(backbone, backbone.tokenizer, ids, torch.ones_like(ids), prefix, *ends)[0]


def sampled(number: int) -> Draws:
    return Draws([random_numbers(0, f"job/{number}", 0)], 1.5, 0.9)


@pytest.mark.parametrize("places", [1, 3, 8])
@pytest.mark.parametrize("prefill", [8, 4096])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_jobs_have_the_tokens_that_they_have_alone(
    family: str, places: int, prefill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "PREFILL", prefill)
    backbone = tiny_backbone(family)
    prefix, order = prefix_of(backbone), random.Random(places)
    pool = Pool(backbone, prefix, places)
    jobs = []
    finished: list[Job] = []
    for number, tokens in enumerate(prompts()):
        choose = sampled(number) if number % 3 == 0 else None
        jobs.append(Job.of(tokens, Limits(3 + 2 * number, (), choose)))
        pool.submit(jobs[-1])
        for _ in range(order.randrange(4)):
            finished += pool.step()
    while pool.busy:
        finished += pool.step()
    assert set(finished) == set(jobs)
    assert len(finished) == len(jobs)
    for number, job in enumerate(jobs):
        choose = sampled(number) if number % 3 == 0 else None
        limits = Limits(3 + 2 * number, (), choose)
        assert job.rows[0].tokens == alone(backbone, prefix, job.tokens, limits)


def test_removed_jobs_leave_the_others_alone() -> None:
    backbone = tiny_backbone("llama")
    prefix = prefix_of(backbone)
    pool = Pool(backbone, prefix, 5)
    jobs = [Job.of(tokens, Limits(12)) for tokens in prompts()]
    for job in jobs:
        pool.submit(job)
    finished = pool.step() + pool.step()
    pool.remove([jobs[1], jobs[3], jobs[6]])
    while pool.busy:
        finished += pool.step()
    assert {jobs.index(job) for job in finished} == {0, 2, 4, 5, 7}
    for job in finished:
        assert job.rows[0].tokens == alone(backbone, prefix, job.tokens, Limits(12))


def test_the_samples_of_a_job_have_numbers_of_their_own() -> None:
    backbone = tiny_backbone("llama")

    def tokens(places: int, others: int) -> list[list[int]]:
        draws = Draws([random_numbers(7, "job", sample) for sample in range(3)], 2.0, 1.0)
        pool, job = Pool(backbone, None, places), Job.of([5, 6, 7], Limits(8, (), draws), 3)
        for number in range(others):
            pool.submit(Job.of([9 + number], Limits(4)))
        pool.submit(job)
        while pool.busy:
            pool.step()
        return [row.tokens for row in job.rows]

    assert tokens(3, 0) == tokens(8, 4)
    assert len({tuple(row) for row in tokens(3, 0)}) > 1


def test_jobs_do_not_join_while_a_hook_has_a_state() -> None:
    backbone = tiny_backbone("llama")
    prefix = prefix_of(backbone)
    settings = AttentionCalibration({1: [0, 1], 2: [3]}, 0.05, 0.1)
    pool = Pool(backbone, prefix, 8, [CalibratedHeads(settings)])
    jobs = [Job.of(tokens, Limits(4 + number)) for number, tokens in enumerate(prompts())]
    for job in jobs[:4]:
        pool.submit(job)
    pool.step()
    for job in jobs[4:]:
        pool.submit(job)
    assert pool.step() == []
    assert not any(job.rows[0].tokens for job in jobs[4:])
    pool.remove([jobs[2]])
    while pool.busy:
        pool.step()
    with backbone.hooked(CalibratedHeads(settings)):
        for job in jobs[:2] + jobs[3:]:
            assert job.rows[0].tokens == alone(backbone, prefix, job.tokens, job.rows[0].limits)


def test_a_failure_loses_the_running_jobs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone("llama")
    pool = Pool(backbone, None, 2)
    jobs = [Job.of(tokens, Limits(6)) for tokens in prompts()[:4]]
    for job in jobs:
        pool.submit(job)
    pool.step()
    with torch.no_grad(), monkeypatch.context():
        weights = backbone.model.get_output_embeddings().weight
        before = weights.clone()
        weights.fill_(torch.nan)
        with pytest.raises(FloatingPointError):
            pool.step()
        weights.copy_(before)
    assert pool.clear() == jobs[:2]
    finished: list[Job] = []
    while pool.busy:
        finished += pool.step()
    assert finished == jobs[2:]
    assert finished[0].rows[0].tokens == alone(backbone, None, jobs[2].tokens, Limits(6))
