"""Truncation of a generation where it continues with another question or chat turn."""

import re

from promptstage.grading.reading.patterns import any_of, phrases

# Special tokens of chat templates: <|im_start|>, </s>, <end_of_turn>, [INST].
_TOKEN = any_of(
    (r"<\|[^|<>\n]{1,30}\|?>", r"</?s>", r"<(?:start|end)_of_turn>", r"<eos>", r"\[/?INST\]", r"<</?SYS>>")
)
_LABEL = any_of(
    phrases(
        """Question, QUESTION, question, Problem, PROBLEM, problem, Exercise, Human, HUMAN, User, USER,
        Instruction, Input, Example, Context, Q"""
    )
)
_INLINE_LABEL = any_of(phrases("USER, HUMAN, Human, User, ASSISTANT, Question"))
_TITLE = any_of(phrases("Question, Problem, Exercise, Example"))
_NEW = any_of(phrases("next, new, another, follow-up, similar, practice"))
_LINE = r"(?:^|\n)[ \t>*_\#]*"  # the start of a line, including marks of emphasis and quotation
_NUMBER = r"(?:\s?\#?\d{1,3})?"

# Special tokens at the start of a text, with or without a role: "<|im_start|>assistant".
_LEAD = re.compile(
    rf"""(?:
        \s*{_TOKEN}\s*
        (?: (?:assistant|model) \s* (?=\n|<|:) :? )?
    )+""",
    re.VERBOSE,
)
_NEXT = re.compile(
    rf"""
    {_TOKEN}
    | {_LINE} (?:(?i:{_NEW})\s+)? (?:
        # "Question 2:", "Q: …", but not "Question: yes"
        {_LABEL} {_NUMBER} [ \t*_]*
            (?: : | \.(?=[ \n*]) | \)(?=[ \n*]) | -(?=\s) )
            (?!\s*(?i:yes|no|true|false)\b)
        # "Problem 2" on a line of its own
        | {_TITLE} {_NUMBER} [ \t>*_\#]* (?=\n|$)
        # "user"
        | (?:user|human|assistant|model) [ \t]* (?=\n|$|:)
    )
    # "… is 5. Human: And …"
    | (?<=[\s.!?]) {_INLINE_LABEL}:[ ]
    # "Now let's try another one"
    | {_LINE} (?i:
        (?:now,?[ ])?
        (?: here(?:'s|[ ]is) | let(?:'s|[ ]us)[ ](?:try|do|solve|look[ ]at) )
        [ ](?:an?[ ])? (?:another|new|similar|next) [^\n]{{0,30}}
    )
    """,
    re.VERBOSE,
)


def truncate_at_next_turn(text: str) -> str:
    """Truncate ``text`` where the model continues with another question or chat turn.

    A heading at the start repeats the original question and does not end the text.

    >>> truncate_at_next_turn("It is 5.\\nQuestion: What is 1+1?")
    'It is 5.'
    """
    lead = _LEAD.match(text)
    start = lead.end() if lead else 0
    restated = None if text.startswith("\n", start) else _NEXT.match(text, start)
    following = _NEXT.search(text, restated.end() if restated else start)
    return text[start : following.start()] if following else text[start:]
