"""Rule-based paraphrases of a question, which preserve its meaning and the order of its numbers."""

import random
import re
from collections.abc import Callable

from promptstage.datamodules.encoding import Example
from promptstage.datamodules.first_names import MEN, WOMEN
from promptstage.datamodules.protected_text import is_unprotected, protected_spans, replace_unprotected
from promptstage.grading.number.words import last_number_in_words

Rename = Callable[[str], str]

FILLERS = (
    "Here is a question for you.",
    "Please read this question with care.",
    "Consider the question below.",
    "Take your time with this question.",
)
_TITLES = "Mr|Mrs|Ms|Miss|Dr|St|Saint|Sir|Lake|Mount|Mt|King|Queen|President|Port|Fort"
_ASKS = "how|what|which|who|where|when"


def _cased(new: str) -> Callable[[re.Match[str]], str]:
    """Return a replacement function that preserves the case of the match's first letter."""

    def cased(match: re.Match[str]) -> str:
        text = match.expand(new)
        return text[0].upper() + text[1:] if match[0][0].isupper() else text

    return cased


def _rule(pattern: str, new: str) -> tuple[re.Pattern[str], Callable[[re.Match[str]], str]]:
    return re.compile(rf"\b{pattern}", re.IGNORECASE), _cased(new)


_TIME = "(second|minute|hour|day|night|morning|week|month|year)"
_NUMBER_IS, _NUMBER_WAS = r"what is the number of \1", r"what was the number of \1"
# Each group holds alternatives, such as both directions of a rule; the first that matches applies.
REWORDINGS = (
    (
        _rule(r"how many (?!more\b|fewer\b|less\b|of\b)([a-z]+(?: [a-z]+){0,3}?) are there\b", _NUMBER_IS),
        _rule(r"how many (?!more\b|fewer\b|less\b|of\b)([a-z]+(?: [a-z]+){0,3}?) were there\b", _NUMBER_WAS),
    ),
    (
        _rule(
            r"how many (?!more\b|fewer\b|less\b|times\b|of\b|other\b|are\b|were\b|is\b)(?=[a-z]{3})",
            "what number of ",
        ),
    ),
    (
        _rule(r"(is|are|was|were|does|do|did|has|have|had)n't\b", r"\1 not"),
        _rule(r"(is|are|was|were|does|do|did|has|have|had) not\b", r"\1n't"),
    ),
    (_rule(r"cannot\b", "can't"), _rule(r"can't\b", "cannot")),
    (_rule(rf"every {_TIME}\b", r"each \1"), _rule(rf"each {_TIME}\b", r"every \1")),
    (
        _rule(r"every (?=\w+ (?:is|has|costs)\b)", "each "),
        _rule(r"each (?=\w+ (?:is|has|costs)\b)", "every "),
    ),
    (_rule(r"in total(?=[ ?.,])", "altogether"), _rule(r"altogether\b", "in total")),
    (_rule(r"buys\b", "purchases"), _rule(r"bought\b", "purchased"), _rule(r"purchased\b", "bought")),
    (_rule(r"because (?!of\b)", "since "),),
    (
        _rule(r"which of the following\b", "which of these"),
        _rule(r"which of these\b", "which of the following"),
    ),
    (_rule(r"is the following statement true or false\?", "is this statement true or false?"),),
    (
        _rule(r"find the (?=value|number|area|sum|product|length|volume)", "determine the "),
        _rule(r"determine the (?=value|number|area|sum|product|length|volume)", "find the "),
    ),
    (_rule(r"compute (?=the\b|\$)", "calculate "), _rule(r"calculate (?=the\b|\$)", "compute ")),
)
_IF_FIRST = re.compile(rf"(?<![^.?!\s] )\bIf ([^,.?!]+), ((?:{_ASKS})\b[^,.?!]*)\?")
_IF_LAST = re.compile(rf"\b((?:{_ASKS.title()})\b[^,.?!]*?) if ([^,.?!]+)\?", re.IGNORECASE)


def paraphrase(text: str, example: Example, rng: random.Random) -> tuple[str, Rename]:
    """Paraphrase a question.

    Each applicable rule is applied with probability 1/2. If the text is unchanged, and otherwise with
    probability 1/4, an introductory sentence is added.

    Args:
        text: the question without answer options.
        example: the question's example; people named in its answer or options keep their names.
        rng: source of the random choices.

    Returns:
        The paraphrase, and a function that applies the same changes of names to other texts.
    """
    original = text
    rename: Rename = str
    if rng.random() < 0.5:
        names = choose_new_names(text, example, rng)
        rename = _renaming(names)
        text = rename(text)
    if rng.random() < 0.5:
        text = move_condition(text)
    for group in REWORDINGS:
        if rng.random() < 0.5:
            text = next(
                (new for rule in group if (new := replace_unprotected(text, *rule)) != text),
                text,
            )
    if text == original or rng.random() < 0.25:
        text = f"{rng.choice(FILLERS)} {text}"
    return text, rename


def move_condition(text: str) -> str:
    """Move a condition to the other end of its question: "If A, how many B?" becomes "How many B if A?".

    Questions with a number outside the condition are unchanged, so that numbers keep their order.

    >>> move_condition("If she eats 2 more, how many are left?")
    'How many are left if she eats 2 more?'
    """
    for pattern, condition, asked in ((_IF_FIRST, 1, 2), (_IF_LAST, 2, 1)):
        for match in pattern.finditer(text):
            if _has_number(match[asked]) or _cuts(text, [match.span(), match.span(1), match.span(2)]):
                continue
            new = (
                f"{_capital(match[2])} if {match[1]}?"
                if condition == 1
                else f"If {match[2]}, {match[1][0].lower()}{match[1][1:]}?"
            )
            return text[: match.start()] + new + text[match.end() :]
    return text


def choose_new_names(text: str, example: Example, rng: random.Random) -> dict[str, str]:
    """Return new first names for the people of a question.

    Names that occur in the answer, the options, a formula or a full name are kept.
    """
    elsewhere = " ".join((example.answer, *(example.options or ())))
    everything = f"{text} {elsewhere} {example.rationale}"
    new_names: dict[str, str] = {}
    for names in (WOMEN, MEN):
        unused = [name for name in names if not re.search(rf"\b{name}\b", everything)]
        rng.shuffle(unused)
        for name in names:
            places = list(re.finditer(rf"\b{name}\b", text))
            longer = re.search(
                rf"\b(?:{_TITLES})\.? {name}\b|\b{name} [A-Z][a-z]|-{name}\b|\b{name}-", everything
            )
            if not places or longer or re.search(rf"\b{name}\b", elsewhere):
                continue
            if unused and all(is_unprotected(text, *place.span()) for place in places):
                new_names[name] = unused.pop()
    return new_names


def _renaming(names: dict[str, str]) -> Rename:
    if not names:
        return str
    pattern = re.compile(rf"\b({'|'.join(names)})\b")
    return lambda text: pattern.sub(lambda match: names[match[0]], text)


def _has_number(text: str) -> bool:
    return any(character.isdigit() for character in text) or last_number_in_words(text) is not None


def _cuts(text: str, spans: list[tuple[int, int]]) -> bool:
    """Return whether one of the spans begins or ends inside a protected part."""
    return any(
        first < edge < last for first, last in protected_spans(text) for span in spans for edge in span
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
