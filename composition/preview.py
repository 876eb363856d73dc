"""Preview of a data set: prompts and completions as tokens, and grades of the completions."""

from collections.abc import Iterator

from promptstage.datamodules.base import ReasoningDataModule
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
WIDTH = 2000  # characters of a text that are shown
SPLITS = {"train": "training", "validation": "validation", "test": "test"}


def preview(data: ReasoningDataModule, backbone: BackboneConfig, count: int) -> None:
    """Print examples of each split, with a summary of lengths and grades.

    Args:
        count: examples of each split.

    Raises:
        UserError: if rows are malformed, or texts do not fit in the backbone.
    """
    data.connect(load_tokenizer(backbone), vocabulary_size(backbone))
    for stage in ("fit", "test"):
        data.setup(stage)
    limit = context_length(backbone)
    if limit is not None:
        data.check_context(limit, 0)
    for split, name in SPLITS.items():
        rows = data.encoded(split)
        print(_summary(data, rows, name))
        for number in range(min(count, len(rows))):
            print("\n".join(_example(data, rows, number)))
    needed = data.longest()
    room = "" if limit is None else f" of {limit}"
    print(f"the longest text needs {needed} positions{room}, without virtual tokens")


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
    try:
        return grade(kind, example.completion, example.answer, example.options)
    except UserError as error:
        raise UserError(f"grading of the completion of {example.id}: {error}") from error


def _example(data: ReasoningDataModule, rows: TokenTable, number: int) -> Iterator[str]:
    """Yield the lines about one example."""
    row, result = rows[number], _grade(data, rows, number)
    first, last = row.spans[:2].tolist()
    yield f"  {printable(row.example.id)}"
    yield f"    prompt      {len(row.prompt)} tokens  {_text(data, row.prompt.tolist())}"
    yield f"    question    {last - first} tokens  {_text(data, row.prompt[first:last].tolist())}"
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
