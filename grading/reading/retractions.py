"""Detection of retractions ("Wait, no"), which invalidate earlier answers."""

import re

from promptstage.grading.reading.patterns import any_of, phrases

# Words before a retraction: "Oh, hmm, but wait".
_HESITATION = r"(?: oh,?[ ] | hmm+[,. ]+ | but[ ] | (?:no|ah|ok|okay),?[ ] )*"
_CAN_FOLLOW_WAIT = r"(?: [,.!:-] | [ ](?:no|that|i|let)\b | [ ]a[ ](?:minute|second|moment) | [ ]- )"
_IS_OR_NOT = any_of(phrases("is, was, can't be, cannot be, isn't, doesn't look"))
_ERROR = any_of(phrases("right, wrong, incorrect, a mistake, an error"))
_NOTICED = any_of(phrases("made, see, missed, forgot, misread, miscounted, miscalculated"))
_REDO = any_of(
    phrases("redo, recalculate, recompute, correct, start over, try again, rethink, reconsider, fix")
)
# "Wait, no", "Oops", "Hmm, that's not right", "I made", "Let me redo", "Actually,": at the start of a clause.
RETRACTION = re.compile(
    rf"""
    (?: ^ | [.!?\n*(:;,-][ ]? ) {_HESITATION}
    (?: wait(?={_CAN_FOLLOW_WAIT})
      | hold[ ]on\b
      | oops\b
      | (?:scratch|strike)[ ]that
      | on[ ]second[ ]thought
      | correction
      | (?:that|this)(?:'s|[ ]{_IS_OR_NOT})(?:[ ]not)?[ ]{_ERROR}\b
      | i[ ]{_NOTICED}\b
      | i[ ](?:was|am)[ ]wrong
      | let[ ]me[ ]{_REDO}
      | (?:actually|sorry|no),
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A retraction after which the answer is confirmed: "Wait, let me check. Yes, that is right."
_AFFIRMED = re.compile(
    r"""
    \b yes \b
    | \b (?:that|this|it|answer|which) (?:'s|[ ]is|[ ]was|[ ]seems|[ ]looks)?
      [ ] (?:all[ ])? (?:(?:indeed|still|actually)[ ])? (?:correct|right|fine) \b
    | \b confirmed \b
    | \b checks?[ ]out \b
    | \b still[ ](?:holds|stands|correct)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_DENIED = re.compile(
    r"""
    \b (?:not|isn't|wasn't|can't[ ]be|cannot[ ]be|in) [ -]? (?:right|correct)
    | \b (?:wrong|incorrect|mistake) \b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def last_retraction(text: str) -> int | None:
    """Return the index of the last retraction, which invalidates earlier answers; None if there is none.

    >>> last_retraction("The answer is 5. Wait, no, it is 6.")
    21
    >>> last_retraction("The answer is 5. Wait, let me check. Yes, that is right.")
    """
    changes = list(RETRACTION.finditer(text))
    if not changes:
        return None
    start = changes[-1].start()
    rest = text[start:]
    return None if _AFFIRMED.search(rest) and not _DENIED.search(rest) else start
