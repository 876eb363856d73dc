"""Readable forms of trained parameters: words of prompts, text, factors; the callbacks that write them."""

from promptstage.callbacks.words.anchor_factors import AnchorFactors as AnchorFactors
from promptstage.callbacks.words.callback import HardPromptText as HardPromptText
from promptstage.callbacks.words.callback import NearestWords as NearestWords
