"""Reasoning tasks generated from a seed: question, worked rationale and answer.

Each task is two pure functions: ``sample(rng, length)`` samples a question of a given length, and
``solve(question)`` returns its rationale and answer. Questions contain no instruction ("347+58", "planet"): a
soft prompt has to supply it.

The tasks are those of "LLM Studies (Part 3)" (2023), a post on prompt tuning of nanoGPT: digit-by-digit
addition, arithmetic series, sums of symbols ("x1=4, x2=17, sum(x1+x2)=?"), letter reversal and last-letter
concatenation.
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

CONSONANTS = "bcdfghklmnprstvwz"
VOWELS = "aeiou"


@dataclass(frozen=True)
class Solution:
    """Worked answer: ``rationale`` (the steps) and ``answer`` (the part that is graded)."""

    rationale: str
    answer: str


@dataclass(frozen=True)
class Task:
    """Generated task.

    Attributes:
        name: name in configurations and in the grader.
        unit: unit of ``length``.
        lengths: default range of lengths, inclusive.
        ood_lengths: default out-of-distribution range, inclusive.
        sample: function that samples a question of a given length.
        solve: function that solves a question.

    >>> TASKS["addition"].solve("347+58")
    Solution(rationale='7+8+0=15;4+5+1=10;3+0+1=04', answer='405')
    """

    name: str
    unit: str
    lengths: tuple[int, int]
    ood_lengths: tuple[int, int]
    sample: Callable[[random.Random, int], str]
    solve: Callable[[str], Solution]


def pseudo_word(rng: random.Random, length: int) -> str:
    """Sample a pronounceable word of alternating consonants and vowels, starting with either."""
    first = rng.randrange(2)
    return "".join(rng.choice((CONSONANTS, VOWELS)[(first + i) % 2]) for i in range(length))


def _number(rng: random.Random, digits: int) -> int:
    return rng.randint(10 ** (digits - 1), 10**digits - 1)


def _sample_addition(rng: random.Random, length: int) -> str:
    numbers = [_number(rng, length), _number(rng, rng.randint(1, length))]
    rng.shuffle(numbers)
    return f"{numbers[0]}+{numbers[1]}"


def _solve_addition(question: str) -> Solution:
    a, b = (int(part) for part in question.split("+"))
    total, carry, steps = a + b, 0, []
    while a or b:
        digit_sum = a % 10 + b % 10 + carry
        steps.append(f"{a % 10}+{b % 10}+{carry}={digit_sum:02d}")
        a, b, carry = a // 10, b // 10, digit_sum // 10
    return Solution(";".join(steps), str(total))


def _sample_series(rng: random.Random, length: int) -> str:
    start, step = rng.randint(1, 40), rng.randint(1, 9)
    return ",".join(str(start + i * step) for i in range(length))


def _solve_series(question: str) -> Solution:
    total, steps = 0, []
    for term in question.split(","):
        steps.append(f"{total}+{term}={total + int(term)}")
        total += int(term)
    return Solution(";".join(steps), str(total))


def _sample_symbols(rng: random.Random, length: int) -> str:
    names = [f"x{i}" for i in range(1, length + 1)]
    values = ", ".join(f"{name}={rng.randint(1, 40)}" for name in names)
    return f"{values}, sum({'+'.join(names)})=?"


def _solve_symbols(question: str) -> Solution:
    """Substitute and add one symbol per step: ``x1=4;4+x2=4+17=21``."""
    value = dict(re.findall(r"(x\d+)=(\d+)", question))
    first, *others = re.findall(r"x\d+", question.partition("sum(")[2])
    total, steps = int(value[first]), [f"{first}={value[first]}"]
    for name in others:
        added = total + int(value[name])
        steps.append(f"{total}+{name}={total}+{value[name]}={added}")
        total = added
    return Solution(";".join(steps), str(total))


def _solve_reversal(question: str) -> Solution:
    return Solution(",".join(reversed(question)), question[::-1])


def _sample_words(rng: random.Random, length: int) -> str:
    return " ".join(pseudo_word(rng, rng.randint(3, 5)) for _ in range(length))


def _solve_last_letter(question: str) -> Solution:
    words = question.split()
    return Solution(",".join(f"{word}>{word[-1]}" for word in words), "".join(w[-1] for w in words))


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("addition", "digits", (2, 4), (5, 6), _sample_addition, _solve_addition),
        Task("series_sum", "terms", (3, 5), (6, 7), _sample_series, _solve_series),
        Task("symbolic_sum", "symbols", (3, 5), (6, 7), _sample_symbols, _solve_symbols),
        Task("letter_reversal", "letters", (4, 7), (8, 9), pseudo_word, _solve_reversal),
        Task("last_letter", "words", (2, 4), (5, 6), _sample_words, _solve_last_letter),
    )
}


def split_of(question: str) -> str:
    """Return the split of a question: ``train`` (80 %), ``validation`` (10 %) or ``test`` (10 %).

    It is a function of the text alone, so that no seed or size can leak a test question into training.
    """
    bucket = hashlib.sha256(question.encode()).digest()[0] % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def sample_questions(task: Task, split: str, lengths: tuple[int, int], seed: int) -> Iterator[str]:
    """Yield distinct questions of ``split`` without end; lengths are uniform over ``lengths``, inclusive.

    Raises:
        ValueError: if the task has no more distinct questions of these lengths.
    """
    rng = random.Random(f"{task.name}/{split}/{seed}")
    seen: set[str] = set()
    misses = 0
    while True:
        question = task.sample(rng, rng.randint(*lengths))
        if question in seen or split_of(question) != split:
            misses += 1
            if misses > 20_000:
                raise ValueError(
                    f"{task.name} has only {len(seen)} distinct {split} questions with {lengths[0]} to "
                    f"{lengths[1]} {task.unit}: reduce {split}_size or widen lengths"
                )
            continue
        seen.add(question)
        misses = 0
        yield question
