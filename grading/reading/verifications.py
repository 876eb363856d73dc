"""Detection of the check of an answer ("To verify: …"), which repeats given numbers after the answer."""

import re

from promptstage.grading.reading.patterns import any_of, phrases

_CHECK = r"(?:double[ -]?check|check|verify|confirm)"
_WE = any_of(phrases("let's, let me, let us, we can, i can, you can, we"))
# What is checked, if the check decides the answer.
_UNDECIDED = any_of(phrases("if, whether, each, all, every, which, for, how, the options?, options?"))
_VERIFICATION = re.compile(
    rf"""
    (?: (?<=[.!?])[*_)]*\s+ | \n\s* ) [*_(\#]*
    (?P<check>
        (?:to|and[ ]to) [ ] {_CHECK} \b
      | (?:double[ -]?check|verif(?:y|ication)|sanity[ ]check|check)(?:ing)? \s? : [ *]*\S
      | (?:double[ -]?checking|verifying) \b
      | (?:as|for)[ ]a (?:[ ](?:quick|sanity|final))? [ ]check \b
      | {_WE} [ ] (?:(?:also|now|quickly)[ ])? (?:double[ -]?check|verify|confirm) \b
    )
    (?! [ ] {_UNDECIDED} \b )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_CONCLUDING = any_of(phrases("so, therefore, thus, hence, finally, in total"))
# A conclusion drawn from the check, which may correct the answer …
_CONCLUSION = re.compile(
    rf"(?: ^ | [.!?,;]\s | \n\s* ) [*_]* {_CONCLUDING} \b [^.\n]*",
    re.IGNORECASE | re.VERBOSE,
)
# … and a confirmation.
_CONFIRMED = re.compile(
    r"\b(?:correct|right|checks|verified|confirm\w*|match\w*|works|valid|holds|consistent|satisf\w+)\b",
    re.IGNORECASE,
)
# The sentence before the check states a result.
_RESULT = re.compile(r"\d|\b(?:so|therefore|thus|hence)\b", re.IGNORECASE)
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_OPTION = re.compile(r"\b(?:option|choice)s?\b", re.IGNORECASE)


def verification_start(text: str) -> int | None:
    """Return the index at which a check of the stated answer begins; None without one.

    A check from which the text draws a conclusion of its own does not count.

    >>> verification_start("So it cost $26. To check: 26 - 6 = 20.")
    15
    """
    lowered = text.lower()
    if not any(word in lowered for word in ("check", "verif", "confirm")):
        return None
    for match in _VERIFICATION.finditer(text):
        if not _RESULT.search(_SENTENCES.split(text[: match.start()])[-1]):
            continue
        rest = text[match.start("check") :]
        conclusions = _CONCLUSION.findall(rest)
        if all(map(_CONFIRMED.search, conclusions)) and not _OPTION.search(rest):
            return match.start()
    return None
