"""The formula, number or word that answers a competition problem."""

import re

from datamodules.answers.commitments import Commitment, commitments
from datamodules.answers.letters import without_spans
from datamodules.answers.number_words import worded
from datamodules.answers.numbers import numbers, pick, plain
from datamodules.answers.retractions import retracted_at
from datamodules.answers.sentences import conclusion
from datamodules.answers.text import Found

_MATH = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_END = re.compile(
    r",?\s(?:and )?not\s|,?\srather than\s|(?<=[^\d\s])[.;!](?:\s|$)|(?<=\d)\.(?:\s|$)|\n\n|,\s(?:which|so|since|because|where|as|and (?:so|the|we|it))\b|\s(?:because|since|where|which)\b"
)
_FILLER = re.compile(
    r"(?i)^(?:(?:therefore|thus|simply|just|exactly|approximately|about|then|clearly|given by|equal to|the (?:number|interval|point|value|set|polynomial|ordered pair|matrix|vector|function|fraction|expression|equation|ordered triple|sum|product)(?: of)?|we (?:get|have)|that)\s+)+"
)
_IS_ONLY = re.compile(r"(?i)(?:the )?(?:final )?answer is:?")
_REASON = re.compile(r"(?:,\s|\s)(?:because|since|as there|whereas|while)\b.*$")
_POINT = re.compile(r"(\([^()]*,[^()]*\))[.!]?$")
_LIST = re.compile(r"(?:\bis|\bare|=|:)\s+(-?[\d./]+(?:(?:,\s*(?:and\s)?|\s(?:and|or)\s)-?[\d./]+)+)[.!]?$")
_EXPRESSION = re.compile(r"(?:\bis|\bare|=|\bequals)\s+([^\s=]+(?:\s[\w\\{}^/]+)?)[.!]?$")
_OPEN_MATH = re.compile(r"^[^$]*(?:\$[^$]*\$[^$]*)*\$(?!\d)[^$]*$")
_BETWEEN = re.compile(r"\bbetween\s+\$?(-?[\d.,/]*\d)\$?\s+and\s+\$?(-?[\d.,/]*\d)\$?\W*$")
_A_LETTER = re.compile(r"\(([A-Z])\)|\"([A-Z])\"|(?:choice|option|answer|letter) ([A-Z])\b")
_SO = re.compile(r"(?:^|,?\s)(?:[Ss]o|[Tt]hus|[Tt]herefore|[Hh]ence),?\s")
_NAME = re.compile(
    r"\s*([A-Z][a-z]+)\s(?:has|is|was|had|wins|won|gets|got|finishes|runs|ate|sold|drove|will)\b"
)
_CLASSES = (
    ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    (
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ),
    ("north", "south", "east", "west"),
    ("odd", "even", "neither"),
    ("yes", "no"),
    ("true", "false"),
)
_FIRST_SENTENCE = re.compile(r"(?<=[a-z][.!?])\s")
_MATHEMATICAL = re.compile(r"[\d\\$=]|^.$")
_JOIN = re.compile(r"\s*(?:,|and|or|, and|, or|;)\s*$")
_HEDGE = re.compile(
    r"(?i)^[\s$.,)]*(?:\bor\b,? (?:maybe|perhaps|possibly|else|it (?:could|might) be)|\(?(?:but|though|although)[^.\n]{0,30}\b(?:could|might|may)(?: also)? be)|(?:^|\s)(?:however, )?(?:it|the answer) (?:could|might|may)(?: also)? be\b"
)


def find_formula(text: str, reference: str) -> Found | None:
    """The last committed formula, or the one that the end of the text states.

    Args:
        reference: tells what kind of answer to look for where none is marked.
    """
    turned = retracted_at(text) or 0
    given = commitments(text)
    for i in reversed(range(len(given))):
        commitment = given[i]
        if commitment.start < turned:
            continue
        if commitment.rule == "boxed":
            return _boxed(text, given[: i + 1])
        found = _committed(commitment, reference)
        # After a box "the answer is unique" is a remark.
        remark = (
            found and any(one.rule == "boxed" for one in given[:i]) and not _MATHEMATICAL.search(found.text)
        )
        if found and not remark:
            return found
    if given and given[-1].start >= turned and not given[-1].body.strip(" \n*_:$.{}"):
        return None
    closing = conclusion(text[turned:])
    if closing is None:
        return None
    if _OPEN_MATH.search(text.rpartition("\n")[2]):
        return None
    return find_named(closing[-1], reference) or _stated(closing[-1], reference)


def _boxed(text: str, given: list[Commitment]) -> Found:
    """The last box, with the boxes before it that the same sentence joins to it by "and"."""
    last = given[-1]
    after = text[last.end : last.end + 80]
    rule = "boxed"
    if _HEDGE.search(after):
        return Found(last.body, rule, hedged=True)
    if len(given) > 1 and given[-2].rule == "boxed":
        between = text[given[-2].end : last.start]
        if (
            re.search(
                r"(?i)\bor (?:maybe|perhaps|possibly)\b|\bmaybe\b|\bmight be\b|\bcould also be\b", between
            )
            and "\n\n" not in between
        ):
            return Found(f"{given[-2].body} or {last.body}", rule, hedged=True)
    return Found(last.body, rule)


def joined_boxes(text: str) -> str | None:
    """The contents of all boxes in the last sentence with a box, if there are several."""
    boxes = [c for c in commitments(text) if c.rule == "boxed"]
    kept = boxes[-1:]
    for box in reversed(boxes[:-1]):
        between = text[box.end : kept[0].start]
        if len(between) > 40 or not re.fullmatch(
            r"[\s$.]*,?\s*(?:and|or|,|\\text\s?\{ ?(?:and|or) ?\}|\\quad)[\s$]*(?:[a-z]\s*=\s*)?[\s$]*",
            between,
        ):
            break
        kept.insert(0, box)
    return ", ".join(box.body for box in kept) if len(kept) > 1 else None


def _committed(commitment: Commitment, reference: str) -> Found | None:
    body = commitment.body.lstrip(" \n*_:>#")
    paragraph = body.partition("\n\n")[0]
    if "boxed" in paragraph[:80]:
        return None
    if body.startswith(("\\[", "$$", "\\(")) or re.match(r"\$[^$]", body):
        return _formulas(paragraph, commitment.rule)
    line = paragraph.partition("\n")[0]
    if "$" in line or "\\(" in line or "\\[" in line:
        if re.match(r"\\?\$?\s?-?[\d.,]+(?:\s|$|\.)", line) and line.count("$") == 1:
            return _plain(line, commitment.rule, reference)
        return _formulas(_FIRST_SENTENCE.split(line, maxsplit=1)[0], commitment.rule)
    return _plain(line, commitment.rule, reference)


def _formulas(text: str, rule: str) -> Found | None:
    """The first formula of ``text``, with those that "and", "or" or a comma joins to it."""
    parts: list[str] = []
    end = 0
    for match in _MATH.finditer(text):
        if parts and not _JOIN.fullmatch(text[end : match.start()]):
            break
        parts.append(next(filter(None, match.groups())).strip())
        end = match.end()
    if not parts:
        return None
    if _HEDGE.search(text[end : end + 80]):
        return Found(", ".join(parts), rule, hedged=True)
    # The unit may follow the formula: $5$ cm.
    return Found(", ".join(part.rstrip(".,;") for part in parts), rule)


def _plain(line: str, rule: str, reference: str) -> Found | None:
    end = _END.search(line)
    text = line[: end.start()] if end else line
    if text.endswith("."):
        text = text[:-1]
    if re.search(r"\d", reference) and not re.search(r"[\d\\$]", text) and (words := worded(text)):
        return Found(words, rule)
    text = _FILLER.sub("", text.strip(" *_:`")).strip(" *_`")
    if commitments(text) or _IS_ONLY.fullmatch(text):
        return None
    if not text or _HEDGE.search(line[len(text) :]):
        return Found(text, rule, hedged=True) if text else None
    return Found(text, rule)


def _stated(sentence: str, reference: str) -> Found | None:
    """The answer in a closing sentence: bold, its last formula, or what stands after "is"."""
    main = _REASON.sub("", sentence)
    if bold := list(re.finditer(r"\*\*([^*\n]+)\*\*", main)):
        kept = [bold[-1][1].strip(" .:")]
        if re.search(r"\s(?:is|are|equals)\s", kept[0]):
            return _stated(kept[0], reference)
        if len(bold) > 1 and _JOIN.fullmatch(main[bold[-2].end() : bold[-1].start()]):
            kept.insert(0, bold[-2][1].strip(" .:"))
        return Found(", ".join(kept), "bold")
    if between := _BETWEEN.search(main):
        return Found(
            f"{between[1]}, {between[2]}",
            "last sentence",
            hedged="and" not in reference and "," not in reference,
        )
    after = _EXPRESSION.search(main)
    formulas = list(_MATH.finditer(main))
    if after and formulas and after.start(1) > formulas[-1].end() and re.search(r"\d", after[1]):
        return Found(after[1], "last sentence")
    if formulas:
        inside = next(filter(None, formulas[-1].groups())).strip().rstrip(".,")
        joined = _formulas(main[formulas[0].start() :], "last formula")
        if (
            joined
            and "," in joined.text
            and not re.search(r"[a-z]{3}", main[formulas[0].end() : formulas[-1].start()])
        ):
            return joined
        return Found(inside, "last formula")
    if len(main.split()) <= 3:
        return Found(re.sub(r"(?i)^final(?: answer)?:\s*", "", main.strip(" .*_")), "last line")
    if stated := _POINT.search(main) or _LIST.search(main) or _EXPRESSION.search(main):
        return Found(stated[1].strip().rstrip("."), "last sentence")
    every = numbers(plain(main))
    match = pick(plain(main)) or (every[-1] if every else None)
    return Found(match[0].strip(), "last number") if match else None


def find_named(text: str, reference: str) -> Found | None:
    """For a reference of a small class (weekdays, directions, …): the word of its class that the text ends with."""
    if re.fullmatch(r"(?:\\text\w*\{)?\s*\(?[A-Z]\)?\s*\}?", reference):
        letters = {next(filter(None, found)) for found in _A_LETTER.findall(without_spans(text))}
        return Found(letters.pop(), "last sentence") if len(letters) == 1 else None
    wanted = re.sub(r"\\text\s*|[{}]", "", reference).strip().casefold()
    for names in _CLASSES:
        if wanted in names:
            said = re.findall(rf"(?i)\b(?<!not )({'|'.join(names)})\b", _REASON.sub("", text))
            return Found(said[-1], "last sentence") if said else None
    if re.fullmatch(r"\\text\{ ?[A-Z][a-z]+ ?\}", reference) and (
        subject := _NAME.match(_SO.split(_REASON.sub("", text))[-1])
    ):
        return Found(subject[1], "last sentence")
    return None
