"""Label words as anchors of in-context learning: the callback, its files and figures."""

from promptstage.callbacks.label_words.callback import LabelWords as LabelWords
