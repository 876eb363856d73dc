"""Detection of rejected answers: "The answer is not 5.", "5 is wrong.", "I don't think it is 5."."""

import re
from collections.abc import Iterable

from promptstage.grading.reading.patterns import any_of, phrases

_LEAD = r"[\s*_(\#>\"'-]{0,10} (?: (?:so|thus|hence|therefore|then|and|but|no|well|clearly|now) ,? \s )*"
_ADVERB = r"(?: (?:\w+ly|therefore|thus|also|still|just|indeed|surely) \s )?"
_NAMES = any_of(phrases("answer, result, value, solution, total, sum, number, choice, option, one, word"))
_SUBJECT = rf"""(?:
    (?: (?:the|my|our|your|this|that) \s )? (?: (?:final|correct|right|best|true) \s )?
        {_NAMES} \b (?: \s (?!(?:is|not|who|whose|which|that)\b) [a-z]+ ){{0,5}}?
    | it | this | that | they | there | he | she | [a-z]
)"""
_MODAL = any_of(phrases("is, are, was, were, can, could, would, should, must, will, does, do, did"))
_NOT = rf"(?: \b {_MODAL} (?: n't | \s {_ADVERB} (?:not|never) ) | \b cannot | \b can't | \b won't )"
_ERROR = any_of(phrases("wrong, incorrect, false, invalid, impossible, ruled out, out of the question"))
_RIGHT = any_of(phrases("correct, right, final, best, valid, possible, answer, solution, result, one"))
# Singular: "3 were wrong" may be the answer.
IS_WRONG = rf"""
    (?: (?:is|was|would\sbe|must\sbe|seems) \s {_ADVERB} {_ERROR}
      | (?: (?:is|was|can|could|would) (?: n't | \s {_ADVERB} (?:not|never) ) | cannot | can't )
          \s (?:be\s)? (?:(?:the|a|an|my|our)\s)? {_RIGHT}
    ) \b
"""
# A value, unlike "true" or "a cat".
_VALUE = r"(?= [^.\n]* [\d\\$] )"
# Not followed by another answer: "not 5, but 6", "not 5; it is 6".
_CONTRARY = any_of(phrases("but, instead, rather, so, thus, therefore, hence, it is, it's, it must"))
_SAME_ANSWER = any_of(phrases("because, since, as, which, or, and, nor"))
_NO_OTHER = rf"""
    (?! [^\n]* (?: \b{_CONTRARY}\b | ; ) )
    (?! [^\n]* , \s (?! {_SAME_ANSWER}\b | [\d$\\] ) )
"""
_REJECTION = re.compile(
    rf"""
    {_LEAD}
    (?: # "The answer is not 5."
        {_SUBJECT} \s* {_NOT} \s (?:(?:be|equals?|been)\s)? {_NO_OTHER} {_VALUE}
        # "Answer: not 5", "#### not 5"
      | (?: (?:(?:the|my)\s)? (?:final\s)? answer [\s*_]* (?: : | = | is ) [\s*_:]* )?
        {_ADVERB} not \s {_NO_OTHER} {_VALUE}
        # "I don't think the answer is 5."
      | (?: (?:i|we|you) \s (?:do\snot|don't|cannot|can't) \s (?:think|believe|say|claim|accept)
          | (?:it|that) (?:\sis|'s) \s (?:false|wrong|incorrect|not\strue) \s that
        ) \b (?! .* (?: \b(?:but|instead|rather)\b | ,\sso\b | ; ) )
        # "5 is wrong.", "The answer is 5, which is wrong."
      | (?: [^,;:\n]{{0,40}}? [\d\\$] (?:(?!\bof\b)[^,;:\n]){{0,20}}? (?: ,?\s which )?
          | (?: (?:(?:the|my)\s)? (?:final\s)? answer | it ) \s is \s [^,;:\n]{{1,40}} ,?\s which
        ) \s {IS_WRONG} {_NO_OTHER}
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)


def without_rejections(sentences: Iterable[str]) -> list[str]:
    """Return the sentences that do more than reject a value.

    >>> without_rejections(["It is 8.", "It is not 5.", "It is not 5, but 6."])
    ['It is 8.', 'It is not 5, but 6.']
    """
    return [sentence for sentence in sentences if not _REJECTION.match(sentence)]
