"""Subordinate clauses, whose numbers are given or explain the number that a sentence states."""

import re

from promptstage.grading.reading.patterns import any_of, phrases

_GOAL = any_of(
    phrases(
        """reach, sell, earn, get, make, buy, cover, finish, complete, achieve, pay, fill, feed, build, win,
        pass, save, travel, go"""
    )
)
_NOT_OBLIGED = "".join(
    f"(?<!{verb}[ ])" for verb in phrases("need, needs, have, has, able, had, going, wants, want")
)
# To the end of the sentence, but not into ", then …" or ", the rest …".
_SAME_CLAUSE = r"(?: (?! ,\s(?:the|he|she|they|it|so|we|[A-Z]) | \sthen\b ) . )*"
_UNIT = any_of(
    phrases(
        """seconds?, minutes?, mins?, hours?, hrs?, days?, weeks?, months?, years?, inch(?:es)?, foot, feet,
        yards?, pounds?, ounces?"""
    )
)
# Parts of a sentence that follow the stated number and state nothing themselves.
_SUBORDINATE = (
    re.compile(r"\([^()]*\)"),
    # ", not 5", "instead of 5"
    re.compile(
        r",?\s(?:(?:and )?not|instead of|rather than|as opposed to)\s(?:the\s)?[$*]*[\d.,]*\d", re.IGNORECASE
    ),
    # "5 apples, because he had 3"
    re.compile(
        r"""
        (?<=\d) [^=:\d]{0,60} (?:,\s|\s-\s|\s)
        (?: because | since | as[ ]there | given[ ]that | which[ ]is[ ](?:more|less) | compared ) \b .*$
        """,
        re.IGNORECASE | re.VERBOSE,
    ),
    # "5 apples: 2 and 3", "5 apples - 2 for him", but neither "for 2 days: 5 apples" nor a difference
    re.compile(
        r"""
        (?<=\d) [^:=\d]{0,40}
        (?: :\s (?! (?:an?\s)? [*$]*[\d.,]+ (?: \W*\w* | \s?(?:%|percent)\s\w+ ) \W*$ ) (?!.*=)
          | \s-\s (?![$]?[\d.,]+(?![\d.,%])) (?!.*=) ) .*$
        """,
        re.VERBOSE,
    ),
    # "5 apples, while he had 3", "5 apples, a 20% rise"
    re.compile(r"(?<=\d)[^:=\d]{0,40},\s(?:while|whereas|unlike|compared|an?\s[$]?\d).*$"),
    # "5 more apples to reach 20", but not "5 of them need to reach 20"
    re.compile(
        rf"(?<=\d) (?:\s[a-zA-Z%-]+){{1,8}} \s (?=to\s{_GOAL}\b) {_NOT_OBLIGED} to\s {_SAME_CLAUSE}",
        re.VERBOSE,
    ),
    # "$60 to make 4 liters"
    re.compile(
        r"""
        (?<=\d) \s to\s(?:make|produce|fill|feed|cover|build|finish|paint) \s
        (?:\w+\s){0,3}? [\d.,]*\d \s [a-z] [^$=]* $
        """,
        re.VERBOSE,
    ),
    # "50 apples, and the ones from Monday brought $56"
    re.compile(
        r"""
        (?<=\d) [^:=\d]{0,60} ,\sand\s (?: the\sones? | those ) \s (?:from|of|on|in|for|at) \s
        (?! .* \b(?:total|altogether|left|remain\w*|now|overall|all|so)\b ) [^,;=]* $
        """,
        re.VERBOSE,
    ),
    # "22 days to draw all 45 scenes", "5 apples in order to have 20"
    re.compile(
        rf"""
        (?<=\d) (?:\s(?:more|full))? \s(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?)
        \s to\s[a-z] {_SAME_CLAUSE}
        """,
        re.VERBOSE,
    ),
    re.compile(r"(?<=\d)(?:\s[a-zA-Z%-]+){0,8}\s(?:in\sorder|so\sas)\sto\s.*$"),
    # "$16, of which $1 is tax"
    re.compile(r"(?<=\d)[^=:\d]{0,40},\sof\s(?:which|whom|these)\b.*$"),
    # "3 hours more than James, who slept 6 hours", but not "who now has 6"
    re.compile(
        r"""
        (?<=\d) [^=:\d]{0,60} ,\s who(?:se|m)? \s (?!.*\b(?:now|then|left|ends?|will|would)\b) [^,;=]* $
        """,
        re.VERBOSE,
    ),
    # "200 minutes, which is 3 hours and 20 minutes"
    re.compile(
        rf"""
        (?<=\d) \s {_UNIT} (?:\s(?:tall|long|wide|high|deep|old))? ,?\s
        (?: which\s(?:is|equals|means) | or | i\.e\.,? | that\sis,? | = ) \s (?:about\s)?
        \d+ \s {_UNIT} ,? (?:\sand)? \s \d+ \s {_UNIT} [\s.]* $
        """,
        re.IGNORECASE | re.VERBOSE,
    ),
    # "1.5 seconds, when it is 80 feet high"
    re.compile(
        r"(?<=\d)[^:=\d]{0,40},\s(?:when|at\swhich\s(?:point|time))\s(?:it|he|she|they|the)\b[^,;=]*$"
    ),
    # "; ordering them would give 12"
    re.compile(
        r"""
        ; (?! [^;]* \b(?:total|altogether|all|so)\b ) [^;]*
        \b would\s(?:give|yield|make|cost|take|need) \b [^;]*
        """,
        re.VERBOSE,
    ),
    # "7 years old now, and he will be 9 in two years"
    re.compile(r"(?<=\snow),?\sand\s(?:\w+\s){1,3}will\sbe\b.*$"),
    # "; 10 days would be …"
    re.compile(r";[^;]*\bwould be\b[^;]*"),
)

# "So each child gets 6 stickers, and there are 4 children.", but not "5 apples, and there are 8 left".
_THERE_ARE = re.compile(
    r"""
    (?P<main> (?: (?! \bthere\b | [=:] ) . )* \d (?: (?! \bthere\b | [=:] ) . )*? )
    (?: ,?\sand | ; | ,\swhere ) \s there\s(?:are|were)\s
    (?! [^,;]* \b(?:total|altogether|left|remain\w*|now|overall|all|so)\b ) [^,;=]*
    """,
    re.IGNORECASE | re.VERBOSE,
)


def blank_subordinate_clauses(sentence: str) -> str:
    """Replace parentheses, negations and subordinate clauses by spaces, which keeps all positions.

    >>> blank_subordinate_clauses("It is 5 (2 + 3)")
    'It is 5        '
    """
    if match := _THERE_ARE.fullmatch(sentence):
        sentence = match["main"].ljust(len(sentence))
    for pattern in _SUBORDINATE:
        sentence = pattern.sub(lambda match: " " * len(match[0]), sentence)
    return sentence
