"""Preview of a data set: prompts and completions as tokens, and grades of the completions."""

from collections import Counter
from collections.abc import Iterator

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.choices import LETTERS
from promptstage.datamodules.completion_checks import NAMES, until_stop
from promptstage.datamodules.token_table import TokenTable
from promptstage.grading import Grade, grade
from promptstage.lightning_modules.backbone.loading import (
    BackboneConfig,
    context_length,
    load_tokenizer,
    vocabulary_size,
)
from promptstage.utilities.errors import UserError, printable

GRADED = 200  # examples of a split; formulas take milliseconds each
BALANCED = 10  # different answers that count as classes if each is that of several questions
WIDTH = 2000  # characters of a text that are shown


def preview(data: ReasoningDataModule, backbone: BackboneConfig, count: int) -> None:
    """Print examples of each split, with a summary of lengths and grades.

    Args:
        count: examples of each split; of a mixture, of each part of a split.

    Raises:
        UserError: if rows are malformed, or texts do not fit in the backbone.
    """
    data.connect(load_tokenizer(backbone), vocabulary_size(backbone))
    for stage in ("fit", "test"):
        data.setup(stage)
    limit = context_length(backbone)
    if limit is not None:
        data.check_context(limit, 0)
    for split, name in NAMES.items():
        rows = data.encoded(split)
        print("\n".join([_summary(data, rows, name), *_counts(rows)]))
        for number in _first(rows, count):
            print("\n".join(_example(data, rows, number)))
    needed = data.longest()
    room = "" if limit is None else f" of {limit}"
    print(f"the longest text needs {needed} positions{room}, without virtual tokens")
    if not data.generation_limit:
        print(
            f"the prediction is the most likely label word: {', '.join(map(printable, data.class_words()))}"
        )
        return
    texts = " or ".join([printable(repr(text)) for text in data.stop] + ["the end token"])
    print(f"a generation ends after max_new_tokens = {data.max_new_tokens} tokens, or earlier at {texts}")


def _first(rows: TokenTable, count: int) -> list[int]:
    """Return the numbers of the first ``count`` examples of each data set, in their order."""
    seen: Counter[str | None] = Counter()
    numbers = []
    for number, example in enumerate(rows.examples):
        seen[example.dataset] += 1
        if seen[example.dataset] <= count:
            numbers.append(number)
    return numbers


def _counts(rows: TokenTable) -> Iterator[str]:
    """Yield the numbers of questions of each data set, if there are several, and of each class."""
    parts = Counter(example.dataset or "" for example in rows.examples)
    answers = Counter(example.answer for example in rows.examples)
    if len(parts) > 1:
        yield f"  data sets: {_listed(parts)}"
    if all(example.options for example in rows.examples) or len(answers) <= min(BALANCED, len(rows) // 5):
        yield f"  answers: {_listed(answers)}"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{printable(name[:60])} {counts[name]:,}" for name in sorted(counts))


def _summary(data: ReasoningDataModule, rows: TokenTable, name: str) -> str:
    if not len(rows):
        return f"{name}: no questions"
    grades = [_grade(data, rows, number) for number in range(min(GRADED, len(rows)))]
    correct = sum(result.correct for result in grades)
    prompts, texts = rows.prompt_lengths, rows.lengths
    completions = [text - prompt for text, prompt in zip(texts, prompts, strict=True)]
    summary = (
        f"{name}: {len(rows):,} questions; prompts of {min(prompts)} to {max(prompts)} tokens, completions "
        f"of {min(completions)} to {max(completions)}; {correct} of {len(grades)} completions are graded as "
        "correct"
    )
    wrong = next((number for number, result in enumerate(grades) if not result.correct), None)
    if wrong is None:
        return summary
    return f"{summary}; the first that is not: {printable(rows.examples[wrong].id)}"


def _grade(data: ReasoningDataModule, rows: TokenTable, number: int) -> Grade:
    example = rows.examples[number]
    kind = example.kind or data.resolve_kind()
    text, _ = until_stop(example.completion, data.stop)
    try:
        return grade(kind, text, example.answer, example.options)
    except UserError as error:
        raise UserError(f"grading of the completion of {example.id}: {error}") from error


def _example(data: ReasoningDataModule, rows: TokenTable, number: int) -> Iterator[str]:
    """Yield the lines about one example."""
    row, result = rows[number], _grade(data, rows, number)
    first, last = row.spans[:2].tolist()
    yield f"  {printable(row.example.id)}"
    yield f"    prompt      {len(row.prompt)} tokens  {_text(data, row.prompt.tolist())}"
    yield f"    question    {last - first} tokens  {_text(data, row.prompt[first:last].tolist())}"
    if row.example.options:
        named = zip(LETTERS, row.example.options, strict=False)
        yield f"    options     {printable('  '.join(f'{name}) {text[:60]}' for name, text in named))}"
    yield f"    completion  {len(row.completion)} tokens  {_text(data, row.completion.tolist())}"
    answer = "no answer" if result.prediction is None else repr(result.prediction)
    yield (
        f"    reference   {printable(repr(row.example.answer))}; the grader extracts {printable(answer)} "
        f"from the completion ({result.reason}): {'correct' if result.correct else 'incorrect'}"
    )


def _text(data: ReasoningDataModule, ids: list[int]) -> str:
    """Return tokens as text on one line, special tokens visible."""
    text = data.tokenizer.decode(ids)
    shown = text if len(text) <= WIDTH else f"{text[:WIDTH]}…"
    return printable(repr(shown))
