"""Words of prompts: the callbacks that write them, and their files."""

from promptstage.callbacks.words.callback import HardPromptText as HardPromptText
from promptstage.callbacks.words.callback import NearestWords as NearestWords
