"""The end of a text without a marked answer: which sentences conclude it, and whether it breaks off."""

import re

LONGEST = 1_000  # characters at the end of a sentence that are looked at

_SPLIT = re.compile(r"(?<=[.!?])[*_)\"'`]*\s+(?=\S)|\n+")
_BREAK = re.compile(
    r"(?i)(?:[=+×*/÷^(\[{,:;<&\\-]|\\\w+"
    r"|\b(?:the|a|an|of|to|by|for|from|with|at|in|on|and|or|but|so|then|that|which|is|are|was|were|be|has|have|had|she|he|they|it|we|"
    r"his|her|their|its|this|these|makes?|gets?|each|per|will|would|can|if|as|because|since|when|than|into|how|plus|minus|times|"
    r"not|also|there|i|you|my|your|therefore|thus|hence|answer|next|now|divided|multiplied|total of|equals?|needs?|sells?|buys?))$"
)
_COMMENT = re.compile(
    r"(?i)[\s*_(#]*(?:note\b|\(note|this (?:is because|means|matches|includes|covers|assumes|confirms|makes sense|can be|shows|equals)|check(?:ing)?\b|to (?:check|verify|confirm|double-check)|"
    r"verif\w+|let(?:'s| me| us) (?:double-?\s?check|check|verify|know)|i hope|is there anything|feel free|hope (?:this|that)|please|"
    r"double-check|explanation\b|reasoning\b|(?:because|since|if)\b(?![^,]*,)|(?:he|she|it|they)'?s? (?:started|began|had originally)|if you|would you|that's it|great|good luck|remember|in other words|e\.g\.|source\b|disclaimer|for comparison|not\b|(?:2nd|second)(?: choice| best)|a common mistake|by comparison|(?:the )?carr(?:y|ies)\b|there,)"
)
_BLOCK = re.compile(
    r"(?i)(?:^|\n)[ *_#(>-]*(?:explanation|reasoning|note|check(?:ing)?|verification|proof|justification|details|working|breakdown|here(?:'s| is) (?:how|why|the breakdown|the reasoning|the explanation)[^\n]*)[ *_]*[.:\n]"
)
_CODE_ONLY = re.compile(
    r"```(?:python|py)?\n(?:(?!```)[^\0])*\b(?:print|return)\b(?:(?!```)[^\0])*(?:```)?\s*$"
)
_CALCULATES = re.compile(r"[+*/×÷]\s?[$]?(?:\d|$)|(?<=[\d\s])-\s?[$]?(?:\d|$)")
_REFUSED = re.compile(
    r"(?i)\b(?:can(?:no|')t be (?:determined|answered|solved|found|calculated)|cannot be (?:determined|answered|solved|found|calculated)|not (?:possible|able) to|"
    r"(?:not enough|insufficient|missing|more) information|(?:can(?:no|')t|cannot|unable to|impossible to|couldn't) (?:be sure |really )?(?:answer|determine|solve|say|tell|find|calculate|compute|provide|help)|"
    r"(?:don't|do not) (?:know|have enough)|not sure|no idea|could you (?:please )?(?:clarify|provide|tell)|please (?:clarify|provide)|once i know|question (?:seems|appears|is|must be) (?:to be )?(?:wrong|flawed|invalid|incomplete)|\w*(?:Error|Exception):)"
)


def conclusion(text: str, refusals: bool = True) -> list[str] | None:
    """The sentences of ``text`` without the comments after its end.

    None for a text that breaks off in the middle of a sentence, or (unless ``refusals`` is false) refuses
    to answer.
    """
    if _CODE_ONLY.search(text):
        return None
    block = _BLOCK.search(text)
    if block and re.search(r"\w", text[: block.start()]):
        text = text[: block.start()]
    elif breaks_off(text):
        return None
    parts = [part[-LONGEST:] for part in _SPLIT.split(text) if part and re.search(r"\w", part)]
    while len(parts) > 1 and (_COMMENT.match(parts[-1]) or re.fullmatch(r"\(.*\)\.?", parts[-1])):
        parts.pop()
    if not parts or (refusals and _REFUSED.search("\n".join(parts[-2:]))):
        return None
    return parts


def breaks_off(text: str) -> bool:
    """Whether ``text`` ends in the middle of a sentence, as at a generation limit."""
    text = text.replace("**", "").rstrip().rstrip("*_`\"'").rstrip()
    if not text or text.endswith(("...", "…")):
        return True
    if text.endswith((".", "!", "?", ")", "]", "$")):
        return False
    last = _SPLIT.split(text)[-1].strip()[-LONGEST:]
    if _BREAK.search(last):
        return True
    numbers = list(re.finditer(r"[\d.,]*\d", last))
    if not numbers:
        # Words alone on a line of their own may be the answer; after a full stop they are cut short.
        return len(last.split()) > 3 or (not text.endswith("\n" + last) and text != last)
    tail = last[numbers[-1].end() :]
    before = last[: numbers[-1].start()]
    return bool(
        len(tail.split()) > 8
        or re.search(r"[,;:]|\b(?:and then|so|but|which|then|because|while|who)\b", tail)
        or (tail.strip(" %°*_") and re.search(r"(?i)\bfor\s[$*]*$", before))
        or (
            not tail.strip(" %°*_")
            and re.search(
                r"(?i)\b(?:by|at|each|every|with|another|if|when|after|the|any|(?<!total )of)\s[$*]*$", before
            )
        )
        or (not tail.strip() and _unfinished(re.split("[;,]", before)[-1]))
    )


def _unfinished(before: str) -> bool:
    """Whether a calculation up to its last number has no result yet: 5 + 3, but not 8 = 5 + 3."""
    left, equals, right = before.replace("≈", "=").rpartition("=")
    return bool(_CALCULATES.search(right) and (not equals or _CALCULATES.search(left)))
