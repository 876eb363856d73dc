"""Format of the text around a question."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from promptstage.datamodules.chat import check_template_args, to_date
from promptstage.datamodules.sources import text_problem
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError, nearest

SLOT = "{question}"
CHAT = "chat"
TEMPLATES = {
    "plain": f"Question: {SLOT}\nAnswer:",
    "cot": f"Question: {SLOT}\nAnswer: Let's think step by step.",
}
TemplateArgs = Mapping[str, bool | int | float | str]


class Demonstration(NamedTuple):
    """A worked example in the prompt, for few-shot prompting.

    Attributes:
        question: its question.
        completion: its worked answer.
    """

    question: str
    completion: str


@dataclass(frozen=True)
class PromptFormat:
    """Format of prompts: template, system message and demonstrations.

    Attributes:
        template: ``plain``, ``cot``, ``chat`` or a text with one ``{question}``.
        date: today's date for chat templates, in ISO form; None: today's.
        system: system message of ``chat``; None: the template's own, if any.
        template_args: arguments of the chat template, such as ``enable_thinking``.
        shots: number of demonstrations in a prompt.
        demonstrations: ``shots`` demonstrations and a spare, which replaces one that is the question itself.
        per_class: number of demonstrations of each class, by completion; a line break separates them, and
            there is a spare of each class. 0: demonstrations have no classes.

    Raises:
        UserError: if a value is not allowed.
    """

    template: str = "plain"
    date: str | None = None
    system: str | None = None
    template_args: TemplateArgs = field(default_factory=dict)
    shots: int = 0
    demonstrations: tuple[Demonstration, ...] = ()
    per_class: int = 0

    def __post_init__(self) -> None:
        check_template(self.template)
        if self.date is not None:
            to_date(self.date)
        for name, value in (("system", self.system), ("template_args", self.template_args)):
            if value and self.template != CHAT:
                raise UserError(f"{name} needs template 'chat', got template {self.template!r:.60}")
        if self.system is not None and (problem := text_problem(self.system)):
            raise UserError(f"system {problem}")
        check_template_args(self.template_args)
        check_minimum({"shots": self.shots, "per_class": self.per_class}, 0)

    def before(self, question: str) -> tuple[Demonstration, ...]:
        """Return the demonstrations in the prompt of a question, never the question itself."""
        if self.per_class:
            return self._of_classes(question)
        others = [shot for shot in self.demonstrations if shot.question.strip() != question.strip()]
        return tuple(others[: self.shots])

    def _of_classes(self, question: str) -> tuple[Demonstration, ...]:
        """Return the demonstrations of each class, with a spare in place of the question itself."""
        spares = {shot.completion: shot for shot in self.demonstrations[self.shots :]}
        shown = [
            spares.get(shot.completion) if shot.question.strip() == question.strip() else shot
            for shot in self.demonstrations[: self.shots]
        ]
        return tuple(shot for shot in shown if shot is not None)

    @property
    def between(self) -> str:
        """Text between the demonstrations of a plain text."""
        return "\n" if self.per_class else "\n\n"


def check_template(template: str) -> str:
    """Return ``template`` if it can be used.

    Raises:
        UserError: if it is neither a known name nor a text with exactly one ``{question}``.
    """
    if problem := text_problem(template):
        raise UserError(f"template {template!r:.60} {problem}")
    if template in TEMPLATES or template == CHAT or template.count(SLOT) == 1:
        return template
    if template.count(SLOT) > 1:
        raise UserError(f"template {template!r} has {template.count(SLOT)} {SLOT}: write exactly one")
    raise UserError(
        f"template {template!r} is unknown: {nearest(template, [*TEMPLATES, CHAT])}, "
        f"or any text with exactly one {SLOT}"
    )
