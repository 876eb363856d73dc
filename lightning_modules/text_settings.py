"""Settings that turn a question into tokens and end its generation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from inspect import signature
from typing import Any

from promptstage import datamodules
from promptstage.datamodules.base import STOP, ReasoningDataModule
from promptstage.datamodules.option_checks import check_stop
from promptstage.datamodules.prompt_format import CHAT, Demonstration, PromptFormat
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.reading import validated


@dataclass(frozen=True)
class TextSettings:
    """Rendering of questions and end of generations; the defaults are those of a prompt that was never fit.

    Attributes:
        dataset: name of the data set; None: none.
        template: ``plain``, ``cot``, ``chat``, or a text with one ``{question}``.
        date: ISO date that a chat template sees; None: today's.
        stop: texts that end a generation.
        max_new_tokens: longest generation, in tokens.
        system, template_args, shots, demonstrations, per_class: as in :class:`PromptFormat`.
    """

    dataset: str | None = None
    template: str = "plain"
    date: str | None = None
    stop: tuple[str, ...] = STOP
    max_new_tokens: int = 400
    system: str | None = None
    template_args: dict[str, bool | int | float | str] = field(default_factory=dict)
    shots: int = 0
    demonstrations: tuple[tuple[str, str], ...] = ()
    per_class: int = 0

    def __post_init__(self) -> None:
        check_stop(list(self.stop))
        check_minimum({"max_new_tokens": self.max_new_tokens}, 1)
        _ = self.format  # raises for values that are not allowed

    @property
    def format(self) -> PromptFormat:
        """The format of prompts."""
        pairs = tuple(Demonstration(*pair) for pair in self.demonstrations)
        return PromptFormat(
            self.template, self.date, self.system, self.template_args, self.shots, pairs, self.per_class
        )


def text_settings_of(data: object) -> TextSettings | None:
    """Return the settings of a data module; None for one of another kind."""
    if not isinstance(data, ReasoningDataModule):
        return None
    today = date.today().isoformat() if data.template == CHAT else None
    own = data.prompt_format()
    return TextSettings(
        data.name,
        data.template,
        data.date or today,
        data.stop,
        data.max_new_tokens,
        own.system,
        dict(own.template_args),
        own.shots,
        tuple((shot.question, shot.completion) for shot in own.demonstrations),
        own.per_class,
    )


def configured_text_settings(data: Mapping[str, Any], where: str) -> TextSettings:
    """Read the settings from the ``data`` section of a stored configuration.

    Args:
        data: ``class_path`` and ``init_args``.

    Raises:
        UserError: naming ``where``, for values of other types.
    """
    options = data.get("init_args")
    values = {name: value for name, value in (options or {}).items() if value is not None}
    known = {name: values[name] for name in ("template", "date", "stop", "max_new_tokens") if name in values}
    name = str(data.get("class_path")).rpartition(".")[2]
    if name in datamodules.__all__:
        cls = getattr(datamodules, name)
        known["dataset"] = getattr(cls, "name", None) or values.get("task")
        known.setdefault("max_new_tokens", signature(cls.__init__).parameters["max_new_tokens"].default)
    return validated(TextSettings, known, f"{where}: section 'data'")
