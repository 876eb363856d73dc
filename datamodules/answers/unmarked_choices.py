"""The option that a text without marks of an answer comes to."""

import re
from collections.abc import Sequence
from functools import lru_cache

from promptstage.datamodules.answers.choice_lines import by_mention, doubted, second
from promptstage.datamodules.answers.letters import by_name, leading, letters_of, only
from promptstage.datamodules.answers.option_texts import by_text, whole_text
from promptstage.datamodules.answers.options import Option, hedge, named, simple
from promptstage.datamodules.answers.sentences import conclusion
from promptstage.datamodules.answers.stated_choices import stated
from promptstage.datamodules.answers.text import Found

# "Options: A) 1 B) 2"
_LISTED = re.compile(r"^[ *_]*(?:answer )?(?:options|choices)[ *_]*:.*$", re.IGNORECASE | re.MULTILINE)
_IN_FORMULAS = str.maketrans("", "", "${}")
_LABEL = re.compile(r"^\W*\w\W")
_SENTENCES = re.compile(r"[.:]\s")
_TRUTH_END = re.compile(r"\b(?:true|false)\W*$", re.IGNORECASE)  # a verdict without a full stop
_LAST_PART = re.compile(r"\n|:\s|->|→|=>")


def unmarked(text: str, options: Sequence[Option]) -> Found | None:
    """The option of a text without marks of an answer; None where it comes to none."""
    if option := whole_text(text, options):
        return Found(option.letter, "option's text")
    text = _without_lists(text, options)
    return (
        stated(text, options)
        or _alone(text, options)
        or _opening(text, options)
        or _closing_text(text, options)
        or _concluded(text, options)
    )


def _without_lists(text: str, options: Sequence[Option]) -> str:
    """``text`` without the options that it repeats."""
    lines = _LISTED.sub("", text).split("\n")
    others = [line for line in lines if not _is_copied(line, options)]
    return "\n".join(others if len(lines) - len(others) > 1 else lines)


def _is_copied(line: str, options: Sequence[Option]) -> bool:
    """Whether a line is an option as it was given: "(A) 21"."""
    return any(
        option.text
        and _labelled(option.label).match(line)
        and simple(_LABEL.sub("", line)) == simple(option.text)
        for option in options
    )


@lru_cache(maxsize=64)
def _labelled(label: str) -> re.Pattern[str]:
    """The beginning of a line in a list of options."""
    return re.compile(rf"\s*[-*]?\s*\(?{re.escape(label)}[).:]")


def _alone(text: str, options: Sequence[Option]) -> Found | None:
    """Return the letter that is the whole last line, or the last capital alone on a line."""
    names = letters_of(options).line.findall(text)
    option = only(text.translate(_IN_FORMULAS).strip().rpartition("\n")[2], options)
    option = option or (by_name(options, names[-1]) if names else None)
    return Found(option.letter, "letter alone on a line") if option else None


def _opening(text: str, options: Sequence[Option]) -> Found | None:
    """The letter a text starts with, unless it starts to list the options."""
    letters, rule = letters_of(options), "letter at the start"
    start = letters.opening.match(text)
    if start is None or len(set(letters.listed.findall(text))) > 1:
        return None
    option = by_name(options, start[start.lastindex or 0])
    if option is None:
        return None
    other = second(text.partition("\n")[0], start.end(), options, option)
    return hedge([option, other], rule) if other else doubted(Found(option.letter, rule), text, options)


def _closing_text(text: str, options: Sequence[Option]) -> Found | None:
    """The option of several sentences that the text ends with."""
    said = simple(text)
    for option in options:
        if _SENTENCES.search(option.text) and said.endswith(simple(option.text)):
            return Found(option.letter, "last sentences, option's text")
    return None


def _concluded(text: str, options: Sequence[Option]) -> Found | None:
    """The option that the last sentence gives, or else the first one, or those before the last."""
    # "It cannot be determined" may be an option.
    closing = conclusion(text, refusals=not any("determined" in option.text for option in options))
    if closing is None:
        return _last_part(text, options)
    rule, last = "last sentence", closing[-1]
    if found := by_mention(last, options, rule) or by_text(last, options, rule, committed=False):
        return found
    if option := whole_text(closing[0], options):
        return Found(option.letter, "first sentence, option's text")
    for sentence in reversed(closing[-3:-1]):
        if len(named(sentence, options)) == 1 and not sentence.strip("$. ").isdecimal():
            return by_text(sentence, options, rule, committed=False)
    return None


def _last_part(text: str, options: Sequence[Option]) -> Found | None:
    """The option that all of the last line says, or all after its last colon or arrow."""
    last = _LAST_PART.split(text.strip())[-1]
    if start := leading(last, options):
        last = last[start[1] :].lstrip(").: ")
    option = whole_text(last, options)
    if option is None and _TRUTH_END.search(last):
        return by_text(last, options, "last line", committed=False)
    return Found(option.letter, "last line, option's text") if option else None
