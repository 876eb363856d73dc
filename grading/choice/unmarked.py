"""Extraction of the chosen option from a text without a marked answer."""

import re
from collections.abc import Sequence
from functools import lru_cache

from promptstage.grading.choice.letters import (
    find_mentions,
    leading_option,
    letter_patterns,
    option_by_name,
    sole_option,
)
from promptstage.grading.choice.lines import option_by_mention, second_option, with_alternative
from promptstage.grading.choice.option_texts import option_by_text, option_by_whole_text
from promptstage.grading.choice.option_words import option_by_clauses, says_undetermined
from promptstage.grading.choice.options import Option, ambiguous_choice, options_named_in, simplify
from promptstage.grading.choice.stated import stated_option
from promptstage.grading.choice.truth import truth_at_start, truth_options, truth_values
from promptstage.grading.reading.answer import Answer
from promptstage.grading.reading.rejections import without_rejections
from promptstage.grading.reading.sentences import concluding_sentences

# "Options: A) 1 B) 2"
_LISTED = re.compile(r"^[ *_]*(?:answer )?(?:options|choices)[ *_]*:.*$", re.IGNORECASE | re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)%\"'][.!?])\s")
_FORMULA_MARKS = str.maketrans("", "", "${}")
_LABEL = re.compile(r"^\W*\w\W")
_SENTENCES = re.compile(r"[.:]\s")
_TRUTH_END = re.compile(r"\b(?:true|false|yes|no)\W*$", re.IGNORECASE)  # a truth value without a full stop
# "B or D could do it, too, but …", "Yes, it is tall, but …"
_CONCESSION = re.compile(
    r"""
    \W* (?: (?:yes|no|true|sure|of[ ]course|admittedly)\b [^.;]{0,100}?
        | [^.;]{0,100}? \b(?P<modal>could|might|may)\b [^.;]{0,100}?
    )
    ,?\s but \s
    """,
    re.IGNORECASE | re.VERBOSE,
)
# At the end of a text: "This means C joined 4 months after B.", often a comment on the answer.
_CONSEQUENCE = re.compile(r"(?<=[.!?]\s)(?:This|That) means [^.!?\n]*[.!?]?\s*$")
_END_WINDOW = 20  # characters at the end searched for a letter
_LAST = "last sentence"  # name of the rule
_LAST_PART = re.compile(r"\n|:\s|->|→|=>")
# "… to the next one. **B**" and "… gives buoyancy - B.", but not the article of "… to the next one. A"
_LETTER_AT_END = re.compile(
    r"""
    (?: (?<=[.!?:]) | (?<=[a-z]{2}\s-) ) \s+
    (?: \*\*\(?(?P<bold>[A-Z])[).:]{0,2}\*\*[.:]? | \((?P<bracketed>[A-Z])\)\.?
      | [|<\[={~]{1,3}(?P<wrapped>[A-Z])[|>\]=}~]{1,3}
      | (?P<final>[A-Z])\. | (?P<plain>[B-HJ-Z]) ) \s* $
    """,
    re.VERBOSE,
)
# "D) 5 and E) 3.5 do not fit either.", "Options A and C are wrong."
_REJECTION = re.compile(
    r"""
    \b (?: (?:do|does|did|can|could|would|will) (?:[ ]not|n't) | cannot )
        [ ] (?:fit|work|match|apply|make[ ]sense|be) \b
    | \b (?:is|are|was|were) [ ] (?: (?:all|both|also|clearly|therefore)[ ] )*
      (?: not[ ](?:correct|right|possible|true|the[ ]answer) | wrong | incorrect | false | too[ ]\w+
        | ruled[ ]out | eliminated )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_TICK, _CROSS = re.compile("[✅✔✓☑]"), re.compile("[❌✗✘]")
# "The opposite of it, evaporation, needs heat.", "X matters as well, though less."
_CONTRAST = re.compile(
    r"""
    \b (?: opposite | (?:in|by)[ ]contrast | in[ ]comparison | on[ ]the[ ]other[ ]hand
      | (?:as[ ]well|too|also)\b [^.;]* \b (?:though|but)[ ](?:\w+[ ])?less(?:er)?
    ) \b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_DRAWN = re.compile(r"\b(?:so|thus|therefore|hence|must|most likely|is called)\b|→|=>|->", re.IGNORECASE)
_TURN = re.compile(
    r"""
    ^\W* (?:but|however|actually|no|wait|it|this|that|these|here) \b
    | \b (?:best|better|most|answer|correct|right|choose|option|needs?|\w{3,}est) \b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_CONCLUDES = re.compile(r"\b(?:so|thus|therefore|hence|leaves|leaving|only|but)\b", re.IGNORECASE)


def find_unmarked_choice(text: str, options: Sequence[Option], bold: Option | None = None) -> Answer | None:
    """Return the option that a text without a marked answer chooses; None if it chooses none.

    Args:
        bold: option whose text is the only one in bold, from the text before its markup was removed.
    """
    if option := option_by_whole_text(text, options):
        return Answer(option.letter, "option's text")
    text = _strip_copied_options(text, options)
    return (
        stated_option(text, options)
        or _ticked_option(text, options)
        or _letter_alone(text, options)
        or _letter_at_start(text, options)
        or _option_at_end(text, options)
        or (Answer(bold.letter, "option's text in bold") if bold else None)
        or _concluding_option(text, options)
        or _truth_at_start(text, options)
    )


def _strip_copied_options(text: str, options: Sequence[Option]) -> str:
    """Remove the lines of ``text`` that repeat the options."""
    lines = _LISTED.sub("", text).split("\n")
    others = [line for line in lines if not _is_copied(line, options)]
    return "\n".join(others if len(lines) - len(others) > 1 else lines)


def _is_copied(line: str, options: Sequence[Option]) -> bool:
    """Return whether a line repeats an option of the question: "(A) 21"."""
    return any(
        option.text
        and _label_pattern(option.label).match(line)
        and simplify(_LABEL.sub("", line)) == simplify(option.text)
        for option in options
    )


@lru_cache(maxsize=64)
def _label_pattern(label: str) -> re.Pattern[str]:
    """Compile the pattern of a line's start in a list of options."""
    return re.compile(rf"\s*[-*]?\s*\(?{re.escape(label)}[).:]")


def letter_at_end(text: str, options: Sequence[Option]) -> Answer | None:
    """Return the letter that alone follows the last sentence of a text with markup."""
    match = _LETTER_AT_END.search(text[-_END_WINDOW:])
    option = option_by_name(options, match[match.lastindex or 0]) if match else None
    return Answer(option.letter, "letter at the end") if option else None


def _ticked_option(text: str, options: Sequence[Option]) -> Answer | None:
    """Return the option named in the only line with a check mark, if other lines have a cross."""
    ticked = [line for line in text.split("\n") if _TICK.search(line)]
    if len(ticked) != 1 or not _CROSS.search(text) or truth_options(options):
        return None
    named = options_named_in(ticked[0], options)
    return Answer(named[0].letter, "option with a check mark") if len(named) == 1 else None


def _letter_alone(text: str, options: Sequence[Option]) -> Answer | None:
    """Return the letter that is the whole last line, or else the last capital alone on a line."""
    names = letter_patterns(options).line.findall(text)
    option = sole_option(text.translate(_FORMULA_MARKS).strip().rpartition("\n")[2], options)
    option = option or (option_by_name(options, names[-1]) if names else None)
    return Answer(option.letter, "letter alone on a line") if option else None


def _letter_at_start(text: str, options: Sequence[Option]) -> Answer | None:
    """Return the letter at the start of a text, unless it starts a list of the options."""
    letters, rule = letter_patterns(options), "letter at the start"
    start = letters.opening.match(text)
    if start is None or len(set(letters.listed.findall(text))) > 1:
        return None
    option = option_by_name(options, start[start.lastindex or 0])
    if option is None:
        return None
    other = second_option(text.partition("\n")[0], start.end(), options, option)
    return (
        ambiguous_choice([option, other], rule)
        if other
        else with_alternative(Answer(option.letter, rule), text, options)
    )


def _option_at_end(text: str, options: Sequence[Option]) -> Answer | None:
    """Return the option, of several sentences, that ends the text."""
    simplified = simplify(text)
    for option in options:
        if _SENTENCES.search(option.text) and simplified.endswith(simplify(option.text)):
            return Answer(option.letter, "last sentences, option's text")
    return None


def _concluding_option(text: str, options: Sequence[Option]) -> Answer | None:
    """Return the option stated by the last sentence, or else by the first or the two before the last."""
    # "It cannot be determined" may be an option.
    closing = concluding_sentences(
        text, refusals=not any(says_undetermined(option.text) for option in options)
    )
    if closing is None:
        return _option_in_last_part(text, options)
    if not truth_options(options):
        closing = without_rejections(closing)
    if not closing:
        return None
    closing = _without_rejections(closing, options)
    if not truth_options(options):
        closing = _without_contrast(closing, options)
    last, first = closing[-1], option_by_whole_text(closing[0], options)
    answer = None
    if concession := _CONCESSION.match(last):
        answer = _stated_option(last[concession.end() :], options)
    contradicts = concession and len(closing) > 1 and _truth_at_start(text, options)
    if answer is None and not (concession and (first or concession["modal"] or contradicts)):
        answer = _stated_option(last, options)
    if answer or first is None:
        return answer or _earlier_option(text, closing, options)
    return Answer(first.letter, "first sentence, option's text")


def _stated_option(sentence: str, options: Sequence[Option]) -> Answer | None:
    """Return the option that the last sentence names or states."""
    return option_by_mention(sentence, options, _LAST) or option_by_text(
        sentence, options, _LAST, committed=False
    )


def _earlier_option(text: str, closing: Sequence[str], options: Sequence[Option]) -> Answer | None:
    """Return the option of one of the two sentences before the last, or of a consequence after it."""
    for sentence in reversed(closing[-3:-1]):
        if _names_one_option(sentence, options) and not sentence.strip("$. ").isdecimal():
            return option_by_text(sentence, options, _LAST, committed=False)
    consequence = _CONSEQUENCE.search(text)
    if consequence and (answer := option_by_text(consequence[0], options, _LAST, committed=False)):
        return answer
    option = option_by_clauses(closing[-3:], options)
    return Answer(option.letter, "last sentences, option's text") if option else None


def _names_one_option(sentence: str, options: Sequence[Option]) -> bool:
    if truth_options(options):
        return len(truth_values(sentence, committed=False, yes_or_no=True)) == 1
    return len(options_named_in(sentence, options)) == 1


def _without_rejections(closing: list[str], options: Sequence[Option]) -> list[str]:
    """Remove sentences at the end that only reject options, unless no other sentence is left."""
    end = len(closing)
    while end > 1 and _rejects_options(closing[end - 1], options):
        end -= 1
    return closing[:end]


def _without_contrast(closing: list[str], options: Sequence[Option]) -> list[str]:
    """Remove a last sentence that names another option only in contrast to the one concluded before it."""
    if len(closing) < 2 or _DRAWN.search(closing[-1]):
        return closing
    is_contrast = _CONTRAST.search(closing[-1]) and len(options_named_in(closing[-2], options)) == 1
    _, *drawn = _DRAWN.split(closing[-2])
    is_drawn = drawn and len(options_named_in(drawn[-1], options)) == 1
    if not is_contrast and (_TURN.search(closing[-1]) or not is_drawn):
        return closing
    return closing[:-1] if options_named_in(closing[-1], options) else closing


def _rejects_options(sentence: str, options: Sequence[Option]) -> bool:
    """Return whether a sentence names options by letter and says that they are wrong."""
    if not _REJECTION.search(sentence) or _CONCLUDES.search(sentence):
        return False
    return any(True for _ in find_mentions(sentence, options))


def _truth_at_start(text: str, options: Sequence[Option]) -> Answer | None:
    """Return the option of a text that starts with its verdict, such as "No"."""
    by_value = truth_options(options)
    value = truth_at_start(text) if by_value else None
    return (
        None if by_value is None or value is None else Answer(by_value[value].letter, "verdict at the start")
    )


def _option_in_last_part(text: str, options: Sequence[Option]) -> Answer | None:
    """Return the option that equals the last line, or the part of it after the last colon or arrow."""
    last = _LAST_PART.split(text.strip())[-1]
    after = _SENTENCE_END.split(last)[-1]
    if option := option_by_whole_text(after, options):
        return Answer(option.letter, "last line, option's text")
    if leading_option(after, options):
        last = after
    if start := leading_option(last, options):
        last = last[start[1] :].lstrip(").: ")
    option = option_by_whole_text(last, options)
    if option is None and _TRUTH_END.search(last):
        return option_by_text(last, options, "last line", committed=False)
    return Answer(option.letter, "last line, option's text") if option else None
