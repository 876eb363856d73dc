"""Generated reasoning tasks: question, worked rationale and answer, from a seed.

Each task is two pure functions: ``sample(rng, length)`` draws a question of a given length and
``solve(question)`` gives its rationale and answer. Questions are bare ("347+58", "planet") on
purpose: what to do with them is what a soft prompt has to say.

The tasks are those of the nanoGPT prompt-tuning post: digit-by-digit addition, arithmetic series, sums of
symbols ("x1=4, x2=17, sum(x1+x2)=?"), letter reversal and last-letter concatenation.
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
    """A worked answer: ``rationale`` (the steps) and ``answer`` (what is graded)."""

    rationale: str
    answer: str


@dataclass(frozen=True)
class Task:
    """One generated task.

    Attributes:
        name: the name used in configs and by the grader.
        unit: what ``length`` counts.
        lengths: default range of lengths, both ends included.
        ood_lengths: default out-of-distribution range, both ends included.
        sample: draws a question of the given length.
        solve: works a question out.
    """

    name: str
    unit: str
    lengths: tuple[int, int]
    ood_lengths: tuple[int, int]
    sample: Callable[[random.Random, int], str]
    solve: Callable[[str], Solution]


def pseudo_word(rng: random.Random, length: int) -> str:
    """A pronounceable made-up word: consonants and vowels in turn, either first."""
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
    """Substitute one symbol a step, then add it: ``x1=4;4+x2=4+17=21``."""
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
    """The split a question belongs to, for ever: 80 % train, 10 % validation, 10 % test.

    A function of the text alone, so that no two seeds or sizes can leak a test question into
    training.
    """
    bucket = hashlib.sha256(question.encode()).digest()[0] % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def questions(task: Task, split: str, lengths: tuple[int, int], seed: int) -> Iterator[str]:
    """Endless distinct questions of ``split``, lengths uniform over ``lengths``.

    Raises:
        ValueError: when the task has no more distinct questions of these lengths.
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
                    f"{task.name} has only {len(seen)} different {split} questions with "
                    f"{lengths[0]} to {lengths[1]} {task.unit}; ask for fewer or allow more lengths"
                )
            continue
        seen.add(question)
        misses = 0
        yield question
