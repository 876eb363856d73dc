"""The chosen option of a multiple-choice question, by its letter or label."""

import re
from collections.abc import Sequence

from datamodules.answers.commitments import commitments
from datamodules.answers.letters import Letters, by_name, denied, leading, without_spans
from datamodules.answers.numbers import MAX_SENTENCE
from datamodules.answers.option_texts import by_text, whole_text
from datamodules.answers.options import Option, named, simple
from datamodules.answers.retractions import retracted_at
from datamodules.answers.sentences import conclusion
from datamodules.answers.text import Found

_MARKUP = re.compile(
    r"\\(?:text\w*|mathbf|mathrm|bf|rm)(?![a-zA-Z])\s*|[*`]|\\[()\[\]]|(?<!\w)_(?!\{)|_(?![\w{])"
)
_BOXES = re.compile(r"\\f?boxed\s*")
_LINK = re.compile(r"(?i)\b(?:or|and/or|and)\b|/|&")
_JOINED = re.compile(
    r"(?i)[).:\]\"']*\s*(?:or|and/or|and|/|&)\s*"
    r"(?:(?:also|possibly|maybe|perhaps|even|option|choice|answer|letter|it could be|either|could be)\s+)*"
)
_CLAUSE_END = re.compile(r";|\.\s|\b(?:not|unlike|than|instead)\b|\bbecause\b|\bsince\b")
_DOUBT = re.compile(
    r"(?i)\b(?:could|might|may)(?: (?:also|just as well|well|possibly|equally))* be\b|\balternatively\b"
    r"|\bor (?:maybe|perhaps|possibly)\b"
)
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\]%][.!?])[\"')]*\s+(?=[A-Z(\"#])")
_LISTED = re.compile(r"(?mi)^[ *_]*(?:answer )?(?:options|choices)[ *_]*:.*$")
_UNDONE = " \n*_:$.{}()"


def find_choice(text: str, options: Sequence[Option]) -> Found | None:
    """The letter of the last committed option, or of the one that the end of the text states."""
    text = without_spans(text)
    turned = retracted_at(text) or 0
    given = [commitment for commitment in commitments(text) if commitment.start >= turned]
    for commitment in reversed(given):
        boxed = commitment.rule == "boxed"
        body = commitment.body if boxed else commitment.body.lstrip(" :*_\n>#\"'")
        if found := _given(bare(body.partition("\n")[0][:MAX_SENTENCE]), options, commitment.rule):
            return _doubted(found, text[commitment.end :] if boxed else body, options)
    if given and not given[-1].body.strip(_UNDONE):
        return None
    return _unmarked(bare(text[turned:]), options)


def bare(text: str) -> str:
    """``text`` without emphasis and boxes."""
    return _MARKUP.sub("", _BOXES.sub(" ", text))


def _two(one: Option, other: Option, rule: str) -> Found:
    return Found(f"{one.letter} or {other.letter}", rule, hedged=True)


def _given(line: str, options: Sequence[Option], rule: str) -> Found | None:
    """The option that a committed line names."""
    if option := whole_text(line, options):
        return Found(option.letter, f"{rule}, option's text")
    if start := leading(line.replace("$", "").replace("{", "").replace("}", ""), options):
        line = line.replace("$", "").replace("{", "").replace("}", "")
        option, end = start
        if second := _joined(line, end, options, option):
            return _two(option, second, rule)
        rest = simple(re.sub(r"^[\s).:\]]*(?:-\s)?", "", _SENTENCE_END.split(line[end:], maxsplit=1)[0]))
        for other in options:
            if other != option and rest and rest == simple(other.text) != simple(option.text):
                return _two(option, other, rule)
        return Found(option.letter, rule)
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    return _by_mention(sentence, options, rule) or by_text(sentence, options, rule, committed=True)


def _joined(line: str, end: int, options: Sequence[Option], option: Option) -> Option | None:
    """The other option of "B or C", with or without the options' texts between."""
    letters = Letters.of(options)
    for link in _LINK.finditer(line, end, end + 80):
        if _CLAUSE_END.search(line[end : link.start()]):
            break
        joined = _JOINED.match(line, link.start())
        match = letters.mention.match(line, joined.end()) if joined else None
        second = by_name(options, match[1] or match[2]) if match else None
        if match is None or second is None or second == option:
            continue
        others = [by_name(options, m[1] or m[2]) for m in letters.mention.finditer(line, end, link.start())]
        if any(other != option for other in others):
            break
        # "C and A is wrong" denies A; "A and a half" names none.
        verb = re.match(
            r"\s+(?:are|both|together|seem|could|can|fit|just|too|also|as well|would|might|may)\b",
            line[match.end() :],
        )
        if verb or not re.match(r"\s+[a-z]", line[match.end() :]):
            return second
    return None


def _doubted(found: Found, after: str, options: Sequence[Option]) -> Found:
    """``found``, hedged where the text goes on to say that it could be another option too."""
    for doubt in _DOUBT.finditer(after):
        rest = bare(after[doubt.end() : doubt.end() + 60].partition("\n")[0])
        other = _given(rest, options, found.rule)
        if other and other.text != found.text and not found.hedged:
            return Found(f"{found.text} or {other.text}", found.rule, hedged=True)
    return found


def _by_mention(sentence: str, options: Sequence[Option], rule: str) -> Found | None:
    """The one option named as "(C)", "option C" or "C) its text" somewhere in a sentence."""
    letters = Letters.of(options)
    seen: dict[Option, None] = {}
    for match in letters.mention.finditer(sentence):
        option = by_name(options, match[1] or match[2])
        # The symbol in "carbon [C]" names no option.
        if option is None or denied(sentence, match.start()) or any(match[0] in o.text for o in options):
            continue
        after = sentence[match.end() :]
        own = (
            re.match(r"\s?[).:]", after)
            and simple(option.text)
            and simple(after[2:]).startswith(simple(option.text))
        )
        kind = re.search(r"(?i)\b(?:option|choice|answer|letter|statement)\s+$", sentence[: match.start()])
        if match[1] or own or kind:
            seen[option] = None
    if len(seen) == 2 and re.search(r"(?i)\b(?:both|either|or)\b", sentence):
        one, other = seen
        return _two(one, other, rule)
    return Found(next(iter(seen)).letter, rule) if len(seen) == 1 else None


def _unmarked(text: str, options: Sequence[Option]) -> Found | None:
    """The option of a text without marks of an answer."""
    if option := whole_text(text, options):
        return Found(option.letter, "option's text")
    text = _without_lists(text, options)
    return (
        _stated(text, options)
        or _alone(text, options)
        or _opening(text, options)
        or _concluded(text, options)
    )


def _without_lists(text: str, options: Sequence[Option]) -> str:
    """``text`` without the options that it repeats."""
    text = _LISTED.sub("", text)
    lines = text.split("\n")
    copied = [bool(_copied(line, options)) for line in lines]
    return "\n".join(line for line, copy in zip(lines, copied, strict=True) if not copy or sum(copied) < 2)


def _copied(line: str, options: Sequence[Option]) -> bool:
    return any(
        re.fullmatch(rf"\s*[-*]?\s*\(?{re.escape(o.label)}[).:]\s*(.*)", line)
        and simple(re.sub(r"^\W*\w\W", "", line)) == simple(o.text)
        for o in options
        if o.text
    )


def _stated(text: str, options: Sequence[Option]) -> Found | None:
    """The last "B is correct", "so B" or "I choose B"."""
    found = None
    for match in Letters.of(options).stated.finditer(text):
        group = next(name for name, name_found in match.groupdict().items() if name_found)
        after = text[match.end(group) :]
        article = match[group] == "A" and group != "one" and re.match(r"\s+[a-z]", after)
        wrong = re.match(r"[)\]]?\s+(?:is|was)\s+(?:not|in|wrong|false)", after)
        option = by_name(options, match[group])
        if option and not article and not wrong and not denied(text, match.start(group)):
            line = text[match.start(group) :].partition("\n")[0]
            second = _joined(line, 1, options, option)
            found = _two(option, second, "option stated") if second else Found(option.letter, "option stated")
            found = _doubted(found, line, options)
    return found


def _alone(text: str, options: Sequence[Option]) -> Found | None:
    names = Letters.of(options).line.findall(text)
    option = by_name(options, names[-1]) if names else None
    return Found(option.letter, "letter alone on a line") if option else None


def _opening(text: str, options: Sequence[Option]) -> Found | None:
    """The letter a text starts with, unless it starts to list the options."""
    letters = Letters.of(options)
    start = letters.opening.match(text)
    listed = {match[1] for match in letters.listed.finditer(text)}
    option = by_name(options, next(filter(None, start.groups()))) if start and len(listed) < 2 else None
    if start is None or option is None:
        return None
    second = _joined(text.partition("\n")[0], start.end(), options, option)
    rule = "letter at the start"
    return _two(option, second, rule) if second else _doubted(Found(option.letter, rule), text, options)


def _concluded(text: str, options: Sequence[Option]) -> Found | None:
    """The option that the last sentence gives."""
    said = simple(text)
    for option in options:
        if re.search(r"[.:]\s", option.text) and said.endswith(simple(option.text)):
            return Found(option.letter, "last sentences, option's text")
    closing = conclusion(text, refusals=not any("determined" in option.text for option in options))
    if closing is None:
        last = re.split(r"\n|:\s|->|→|=>", text.strip())[-1]
        start = leading(last, options)
        option = whole_text(last[start[1] :].lstrip(").: ") if start else last, options)
        return Found(option.letter, "last line, option's text") if option else None
    rule = "last sentence"
    found = _by_mention(closing[-1], options, rule) or by_text(closing[-1], options, rule, committed=False)
    if found:
        return found
    if option := whole_text(closing[0], options):
        return Found(option.letter, "first sentence, option's text")
    for sentence in reversed(closing[-3:-1]):
        if len(named(sentence, options)) == 1 and not sentence.strip("$. ").isdecimal():
            return by_text(sentence, options, rule, committed=False)
    return None
