"""Text classification, with one word for each label as the answer.

Templates and label words of the four tasks are those of Wang et al., "Label words are anchors: an information
flow perspective for understanding in-context learning", EMNLP 2023, arXiv:2305.14160. The tasks:

- ``sst2``: Socher, Perelygin, Wu et al., "Recursive deep models for semantic compositionality over a
  sentiment treebank", EMNLP 2013.
- ``trec``: Li and Roth, "Learning question classifiers", COLING 2002.
- ``ag_news``: Zhang, Zhao and LeCun, "Character-level convolutional networks for text classification",
  NeurIPS 2015, arXiv:1509.01626.
- ``emoc``: Chatterjee, Narahari, Joshi and Agrawal, "SemEval-2019 task 3: EmoContext contextual emotion
  detection in text", SemEval 2019.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from promptstage.datamodules.custom import Custom
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.field_texts import value_text
from promptstage.datamodules.sources import MalformedRow, list_names
from promptstage.utilities.errors import UserError, choose


class Task(NamedTuple):
    """Template, label words and field of the label."""

    template: str
    words: Sequence[str]
    label: str = "label"


TASKS = {
    "sst2": Task("Review: {question}\nSentiment:", ("Negative", "Positive")),
    "trec": Task(
        "Question: {question}\nAnswer Type:",
        ("Abbreviation", "Entity", "Description", "Person", "Location", "Number"),
        "coarse_label",
    ),
    "ag_news": Task("Article: {question}\nAnswer:", ("World", "Sports", "Business", "Technology")),
    "emoc": Task("Dialogue: {question}\nEmotion:", ("Others", "Happy", "Sad", "Angry")),
}
OWN = Task("Text: {question}\nLabel:", ())  # data of the user's own
STOP = ["\n"]


class Classification(Custom):
    """Texts to classify: the completion is the label's word alone.

    Args:
        task: sst2, trec, ag_news or emoc, which sets template and label words; default: data of your own.
        label_words: the words, by label number from 0, or a mapping of labels to words; default: the task's.
        text: field with the text, or a text with fields in braces, as for
            :class:`~promptstage.datamodules.custom.Custom`.
        label: field with the label; default: ``label``, for trec ``coarse_label``.
        template: as in :class:`~promptstage.datamodules.base.ReasoningDataModule`; default: the task's, or
            the text after "Text:" and a line "Label:".
        stop: texts that end a generation; default: a new line.

    Attributes:
        label_words: the word of each label, by the label as text.

    Raises:
        UserError: if the task is unknown, no words are given, or two labels have the same word.
    """

    def __init__(
        self,
        *,
        source: str,
        task: str | None = None,
        label_words: list[str] | dict[str, str] | None = None,
        text: str = "text",
        label: str | None = None,
        template: str | None = None,
        stop: list[str] | None = None,
        name: str | None = None,
        max_new_tokens: int = 8,
        **kwargs: Any,
    ) -> None:
        used = OWN if task is None else TASKS[choose("task", task, TASKS)]
        super().__init__(
            source=source,
            question=text,
            answer=used.label if label is None else label,
            answer_kind="text",
            answer_after=None,
            rationale=None,
            completion=None,
            options=None,
            name=name or task,
            template=used.template if template is None else template,
            stop=STOP if stop is None else stop,
            max_new_tokens=max_new_tokens,
            **kwargs,
        )
        self._by_number = not isinstance(label_words, Mapping)
        self.label_words = _by_label(used.words if label_words is None else label_words)

    @property
    def distinct_words(self) -> str:
        return "set label_words to words that differ in it"

    def class_words(self) -> tuple[str, ...]:
        """Return the label word of each class."""
        return tuple(self.label_words.values())

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """Parse a row; the answer and the completion are the word of its label.

        Raises:
            MalformedRow: if a field is missing, or the label has no word.
        """
        value = self.answer.value(row)
        label = value_text(int(value) if isinstance(value, bool) else value, "label")
        if label not in self.label_words:
            note = ""
            if self._by_number and not label.lstrip("-").isdecimal():
                note = "; a list of label_words is by label number: map labels that are texts to words"
            allowed = list_names(self.label_words)
            raise MalformedRow(f"label {label!r:.60} has no word (labels: {allowed}{note})")
        word = self.label_words[label]
        example = Example(f"{self.name}/{split}/{index}", self.question(row), "", word, word)
        self._check_gold(example, index)
        return example


def _by_label(words: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Return the word of each label.

    Raises:
        UserError: if there are fewer than two, one is empty, or two labels have the same.
    """
    named = words if isinstance(words, Mapping) else {str(i): word for i, word in enumerate(words)}
    by_label = {str(label).strip(): word.strip() for label, word in named.items()}
    if len(by_label) < 2:
        raise UserError(
            "label_words must name the word of each of at least two labels, such as [Negative, Positive], "
            f"got {list_names(by_label.values()) or 'none'} (or set task: {', '.join(TASKS)})"
        )
    labels: dict[str, str] = {}
    for label, word in by_label.items():
        if not word:
            raise UserError(f"label_words: the word of label {label!r:.60} is empty")
        if (other := labels.setdefault(word.casefold(), label)) != label:
            raise UserError(f"label_words: {other!r:.60} and {label!r:.60} have the same word {word!r:.60}")
    return by_label
