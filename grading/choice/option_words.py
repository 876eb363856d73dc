"""Options whose words a sentence contains in another order, or whose clauses are spread over sentences."""

import re
from collections.abc import Sequence

from promptstage.grading.choice.options import Option, simplify
from promptstage.grading.reading.patterns import any_of, phrases

_WORD = re.compile(r"\d[\d.,:/]*\d%?|\d%?|[^\W\d_]+")
_IGNORED = frozenset(
    phrases(
        "a, an, the, of, is, are, was, were, be, in, on, at, to, by, for, with, it, its, and, or, that, which"
    )
)
_MAX_GAPS = 3  # words of a sentence between the words of an option
_NEGATION = re.compile(
    rf"\b{any_of(phrases('not, no, never, cannot, neither, nor, without, unlike, rather, instead'))}\b|n't\b",
    re.IGNORECASE,
)
_REJECTED = re.compile(r",\s(?:and\s)?not\s(?!only\b)[^,;:]*$")  # ", not its rotation"
_LAST_CLAUSE = re.compile(r":\s(?=\w)")
_ENDING = re.compile(r"(?<=[a-z]{4})(?:ing|ed|es|e)$")
_LONG = 16  # letters of an option that is compared without spaces
_CLAUSES = re.compile(r"\s(?:and|while|but)\s|[,;]\s")

# "cannot be determined", "not enough information"
_UNDETERMINED = re.compile(
    rf"""
    \b
    (?: cannot (?:[ ]be)? [ ] {any_of(phrases("determined?, found, find, calculated?, known?, say"))}
      | impossible[ ]to[ ](?:determine|find|say|know)
      | not[ ](?:possible|able)[ ]to[ ](?:determine|find|say|know)
      | (?:not|n't)[ ]enough[ ](?:information|data)
      | (?:information|data) (?:[ ]given)? (?:[ ]is|[ ]are)? [ ](?:insufficient|inadequate|not[ ]sufficient)
      | (?:insufficient|inadequate)[ ](?:information|data)
    ) \b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def says_undetermined(text: str) -> bool:
    """Return whether a text says that the answer cannot be determined.

    >>> says_undetermined("We can not determine it."), says_undetermined("It can be determined.")
    (True, False)
    """
    return bool(_UNDETERMINED.search(simplify(text)))


def option_by_words(sentence: str, options: Sequence[Option]) -> Option | None:
    """Return the only option whose words stand together in a sentence: "a profit of 3 %" for "3% Profit".

    Options of a single word and sentences with a negation give None.
    """
    if says_undetermined(sentence):
        matches = [option for option in options if says_undetermined(option.text)]
        return matches[0] if len(matches) == 1 else None
    sentence = _LAST_CLAUSE.split(_REJECTED.sub("", sentence))[-1]
    if _NEGATION.search(sentence):
        return None
    if option := _option_without_spaces(sentence, options):
        return option
    for stem in (str, _stem):
        words = list(map(stem, _words(sentence)))
        matches = [
            option for option in options if _contains(words, list(map(stem, _content_words(option.text))))
        ]
        if matches:
            return matches[0] if len(matches) == 1 else None
    return None


def _option_without_spaces(sentence: str, options: Sequence[Option]) -> Option | None:
    """Return the only option that occurs in a sentence if spaces are ignored: "fresh water", "freshwater"."""
    text = simplify(sentence).replace(" ", "")
    squeezed = [(option, simplify(option.text).replace(" ", "")) for option in options]
    matches = [option for option, words in squeezed if len(words) >= _LONG and words in text]
    return matches[0] if len(matches) == 1 else None


def _stem(word: str) -> str:
    """Remove the ending of a verb.

    >>> _stem("recycling"), _stem("recycle"), _stem("red")
    ('recycl', 'recycl', 'red')
    """
    return _ENDING.sub("", word)


def option_by_clauses(sentences: Sequence[str], options: Sequence[Option]) -> Option | None:
    """Return the only option all of whose clauses occur in ``sentences``, in any order."""
    text = simplify(" ".join(sentences))
    matches = []
    for option in options:
        clauses = [simplify(clause) for clause in _CLAUSES.split(option.text)]
        if len(clauses) > 1 and all(len(clause.split()) > 1 and clause in text for clause in clauses):
            matches.append(option)
    return matches[0] if len(matches) == 1 else None


def _words(text: str) -> list[str]:
    """Return the words and numbers of a text, without plural endings."""
    return [word if len(word) < 4 else word.removesuffix("s") for word in _WORD.findall(simplify(text))]


def _content_words(text: str) -> list[str]:
    return [word for word in _words(text) if word not in _IGNORED]


def _contains(words: list[str], content: list[str]) -> bool:
    """Return whether a short run of ``words`` contains all of at least two content words."""
    if len(set(content)) < 2 or not set(content).issubset(words):
        return False
    length = len(content) + _MAX_GAPS
    return any(set(content).issubset(words[start : start + length]) for start in range(len(words)))
