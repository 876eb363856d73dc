"""Extraction of true or false, or of yes or no, as an answer in words."""

import re
from collections.abc import Sequence
from itertools import pairwise

from promptstage.grading.choice.options import Option, simplify
from promptstage.grading.reading.patterns import any_of, phrases

_TRUTH = re.compile(r"\b(?P<un>un)?(?P<value>true|false)(?:ly)?\b", re.IGNORECASE)
# Words that negate the truth value after them: "not necessarily true", "can't be true".
_NOT = any_of(phrases("not, never, cannot be, can't be, nor"))
_ADVERB = any_of(phrases("necessarily, actually, really, the case that it is, an?"))
_DENIAL = re.compile(rf"(?: \b{_NOT} | n't(?:[ ]be)? ) \s+ (?: {_ADVERB}[ ] )? $", re.IGNORECASE | re.VERBOSE)
# "Is Max a cat, true or false?", "whether it is true or not".
_QUESTION = re.compile(
    r"""
    \b (?: whether\s+[^.\n]{0,60}? )?
    (?: true[ ]or[ ]false | false[ ]or[ ]true | true/false | true[ ]or[ ]not ) \b
    """,
    re.IGNORECASE | re.VERBOSE,
)
# "True, or perhaps false", "neither".
_BOTH = re.compile(
    r"""
    \b (?:true|false) \W+ (?:or|and) \W+ (?: \w+\W+ ){0,3} (?:true|false) \b
    | \b neither \b
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Synonyms of true and false: "the statement is correct", "does not hold", "contradicts the statement".
_STATEMENT = any_of(phrases("statement, claim, assertion, proposition, hypothesis"))
_BE = any_of(phrases("is, be, was"))
_TRUE = any_of(phrases("correct, right, valid, accurate, confirmed, supported, prove[nd], verified"))
_FALSE = any_of(
    phrases("incorrect, wrong, invalid, inaccurate, contradicted, refuted, disproved, disproven, unsupported")
)
_CONFIRMS = any_of(
    phrases(
        """confirm(?:s|ing)?, support(?:s|ing)?, prov(?:es?|ing), verif(?:y|ies|ying), agrees? with,
        match(?:es|ing)"""
    )
)
_CONTRADICTS = any_of(
    phrases("contradict(?:s|ing)?, refut(?:es?|ing), disprov(?:es?|ing), conflicts? with, violat(?:es?|ing)")
)
_SYNONYMS = re.compile(
    rf"""
    (?P<about> (?: \b{_STATEMENT}\b | "[^"\n]{{3,80}}" )
            [^.\n]{{0,60}}? \b{_BE}\s (?:(?:not|therefore|thus|indeed)\s)* )
        (?: (?P<is_true> {_TRUE} ) | {_FALSE} ) \b
    | (?P<before> \b{_STATEMENT}\b [^.\n]{{0,60}}? \b )
        (?: (?P<holds> holds?(?:\s+true)? | follows ) | fails | is\sa\scontradiction ) \b
    | (?: (?P<confirms> \b{_CONFIRMS} ) | \b{_CONTRADICTS} ) \b (?= \s (?:\w+\s){{1,3}}? {_STATEMENT}\b )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# "The opposite of the statement is true."
_OPPOSITE = re.compile(r"\b(?:opposite|negation)\b", re.IGNORECASE)
_REASON = re.compile(r",?\s\b(?:because|since|as|given that)\b")
# "Yes, it is.", "So no.", but not "no cat is …" or "no, wait".
_CONCLUDING = (
    rf"(?: {any_of(phrases('so, thus, therefore, hence, and so, the answer is, answer:?'))} [,:]? \s+ )"
)
_YES_OR_NO = re.compile(
    rf"""
    (?: ^ \W* | [.:;,]\s | \s-\s | \( ) {_CONCLUDING}*
        (?P<word> yes | no ) \b (?= \s* (?: [,.;:!)] | $ | -\s ) )
    # "I would say no."
    | \b (?: say | is | be | means | clearly | definitely | probably | actually | therefore | indeed | simply
      | a | a[ ](?:clear|definite) ) \s
      (?P<last> yes | no ) (?= [.!]? $ )
    # "Yes it can", "No because"
    | ^ \W* (?P<first> yes | no ) \s (?= (?: it | they | he | she | you | we | this | because | since ) \b )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# "The statement is true.", "False.", "No": a sentence that is only a verdict.
_VERDICT = re.compile(
    r"""
    \W*
    (?: (?: (?:the|this|that)[ ](?:statement|claim|answer|conclusion) | it | this | that ) [ ] is [ ] )?
    (?: (?P<yes> yes | true | correct ) | no | false | incorrect | not[ ]true ) \W*
    """,
    re.IGNORECASE | re.VERBOSE,
)
# "Yes or no", "maybe yes, maybe no"
_EITHER = re.compile(
    r"\b(?:yes|no)\W+(?:(?:and|or|but)\W+)?(?:(?:also|maybe|perhaps|possibly|then)\W+){0,2}(?:yes|no)\b(?=\W*$)",
    re.IGNORECASE,
)
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_MIN_CHANGES = 2  # of the verdict, for a text without an answer
# "None of the facts is false": a truth value of other sentences than the statement.
_OTHER_FACTS = re.compile(
    r"""
    \b (?:none|neither|all|each|some|one|both|every|no) \s (?:of\s)? (?:(?:the|these|those|them|its)\s)?
    (?: (?! (?:is|are|was|were|statement|claim|conclusion)\b ) [a-z]+\s ){0,3}
    (?:is|are|was|were) \s (?:true|false) \b
    # "It would be false to say …", "Every vumpus is large is true, but …"
    | \bwould\s(?:have\sbeen|be)\s(?:true|false)\b
    | \bis\s(?:true|false)(?=,\sbut\b)
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A truth value that ends a clause, unlike that of "a true story".
_ENDS_CLAUSE = re.compile(r"\s*(?:[.,;:!)\"'-]|$|(?:because|since|as|that)\b)")
TRUTH_NAMES = {"true": True, "false": False, "yes": True, "no": False}


_SAID = re.compile(
    r"""
    (?P<said> \b(?:statement|claim)\b [^.\n]{0,100} \.\s+ )
    (?:this|that|it)\sis\s (?= (?:in)?correct | wrong | right | true | false )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_LETTER_LINE = re.compile(
    r"^(?P<before>[ #*>]*(?:(?:the )?(?:final )?answer[ :*]*(?:is )?)?)(?P<letter>[TF])(?P<after>[ .*]*)$",
    re.IGNORECASE | re.MULTILINE,
)


def spell_out_verdicts(text: str) -> str:
    """Write verdicts on the statement in words that name it.

    >>> spell_out_verdicts("Answer: F"), spell_out_verdicts("The claim is that he is shy. This is wrong.")
    ('Answer: False', 'The claim is that he is shy. The statement is wrong.')
    """
    text = _LETTER_LINE.sub(
        lambda match: f"{match['before']}{'True' if match['letter'] in 'Tt' else 'False'}{match['after']}",
        text,
    )
    return _SAID.sub(lambda match: f"{match['said']}The statement is ", text)


def truth_options(options: Sequence[Option]) -> dict[bool, Option] | None:
    """Return the options by truth value if they are True and False, or yes and no; None for any others."""
    texts = {simplify(option.text): option for option in options}
    if texts.keys() not in ({"true", "false"}, {"yes", "no"}):
        return None
    return {TRUTH_NAMES[text]: option for text, option in texts.items()}


def alternates(text: str) -> bool:
    """Return whether a text ends in verdicts that contradict each other again and again.

    >>> alternates("It is true. It is false. It is true."), alternates("It is true. No, it is false.")
    (True, False)
    """
    verdicts = []
    for sentence in reversed(_SENTENCES.split(text)):
        if not sentence.strip():
            continue
        verdict = _VERDICT.fullmatch(sentence)
        if verdict is None:
            break
        verdicts.append(bool(verdict["yes"]))
    return sum(left != right for left, right in pairwise(verdicts)) >= _MIN_CHANGES


def truth_values(sentence: str, committed: bool, yes_or_no: bool = False) -> set[bool]:
    """Return the truth values that a sentence asserts: one, both or none.

    "Yes" and "no" count as true and false if the sentence has no such word itself.

    >>> truth_values("It is not true, as all cats are animals.", committed=True)
    {False}

    Args:
        committed: whether the sentence is marked as the answer. Then its first value counts, otherwise the
            last. A repeated question ("true or false") counts as both if it is marked, otherwise as none.
        yes_or_no: whether the options are yes and no. These words then precede "true" and "false".
    """
    if yes_or_no:
        return _yes_or_no(sentence, committed)
    rest = _OTHER_FACTS.sub(" ", _SYNONYMS.sub(_as_truth, _QUESTION.sub(" ", sentence)))
    main = _REASON.split(rest, maxsplit=1)[0]
    rest = main if _TRUTH.search(main) else rest
    values = [_value(match) for match in _TRUTH.finditer(rest)]
    if not values:
        if committed and _QUESTION.search(sentence):
            return {True, False}
        values = _yes_and_no(sentence)
    if _BOTH.search(rest):
        return {True, False}
    return {values[0] if committed else values[-1]} if values else set()


def truth_at_start(text: str) -> bool | None:
    """Return the verdict with which a text starts: "Yes", "No" or a sentence such as "It is false."

    >>> truth_at_start("Yes. Max is a cat."), truth_at_start("No cat is blue.")
    (True, None)
    """
    first = _SENTENCES.split(text.lstrip(), maxsplit=1)[0]
    if verdict := _VERDICT.fullmatch(first):
        return bool(verdict["yes"])
    match = _YES_OR_NO.match(first)
    return _is_yes(match) if match and (match["first"] or match["word"]) else None


def _yes_or_no(sentence: str, committed: bool) -> set[bool]:
    """Return the truth values that a sentence asserts as "yes" or "no", or else as "true" or "false"."""
    if _EITHER.search(sentence):
        return {True, False}
    values = _yes_and_no(sentence)
    if values:
        return {values[0] if committed else values[-1]}
    rest = _OTHER_FACTS.sub(" ", _SYNONYMS.sub(_as_truth, sentence))
    if not any(_ENDS_CLAUSE.match(rest, match.end()) for match in _TRUTH.finditer(rest)):
        return set()
    return truth_values(rest, committed)


def _yes_and_no(sentence: str) -> list[bool]:
    return [_is_yes(match) for match in _YES_OR_NO.finditer(sentence)]


def _is_yes(match: re.Match[str]) -> bool:
    return (match["word"] or match["last"] or match["first"]).lower() == "yes"


def _as_truth(match: re.Match[str]) -> str:
    """Rewrite "the statement is incorrect" as "the statement is false"."""
    is_true = match["is_true"] or match["holds"] or match["confirms"]
    return f"{match['about'] or match['before'] or ''}{'true' if is_true else 'false'}"


def _value(match: re.Match[str]) -> bool:
    """Return the value of a match of ``_TRUTH``: "untrue" and "not true" are false."""
    before = match.string[: match.start()]
    is_negated = bool(match["un"] or _DENIAL.search(before)) != bool(_OPPOSITE.search(before))
    return (match["value"].lower() == "true") != is_negated
