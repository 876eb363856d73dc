"""Where a generation goes on to a question of its own, or to another chat turn."""

import re

from promptstage.datamodules.answers.patterns import either, phrases

# Chat templates' tokens: <|im_start|>, </s>, <end_of_turn>, [INST].
_TOKEN = either(
    (r"<\|[^|<>\n]{1,30}\|?>", r"</?s>", r"<(?:start|end)_of_turn>", r"<eos>", r"\[/?INST\]", r"<</?SYS>>")
)
_LABEL = either(
    phrases(
        """Question, QUESTION, question, Problem, PROBLEM, problem, Exercise, Human, HUMAN, User, USER,
        Instruction, Input, Example, Context, Q"""
    )
)
_INLINE_LABEL = either(phrases("USER, HUMAN, Human, User, ASSISTANT, Question"))
_TITLE = either(phrases("Question, Problem, Exercise, Example"))
_NEW = either(phrases("next, new, another, follow-up, similar, practice"))
_LINE = r"(?:^|\n)[ \t>*_\#]*"  # the start of a line, marks of emphasis and quotation included
_NUMBER = r"(?:\s?\#?\d{1,3})?"

# The tokens with which a text opens, perhaps with a role: "<|im_start|>assistant".
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


def cut(text: str) -> str:
    """``text`` up to where the model goes on to a question of its own, or to another chat turn.

    A heading with which the text starts repeats the question that was asked, and ends nothing.
    """
    lead = _LEAD.match(text)
    start = lead.end() if lead else 0
    restated = None if text.startswith("\n", start) else _NEXT.match(text, start)
    following = _NEXT.search(text, restated.end() if restated else start)
    return text[start : following.start()] if following else text[start:]
