"""A batch may hold questions of several data sets, each graded by its own kind of answer."""

from promptstage.datamodules.collate import Collate
from promptstage.datamodules.encoding import encode
from promptstage.datamodules.example import Example
from promptstage.datamodules.prompt_format import PromptFormat
from promptstage.datamodules.templates import Template
from promptstage.lightning_modules.backbone.loading import BackboneConfig, load_tokenizer
from promptstage.lightning_modules.decoding.records import grade_batch


def test_examples_are_graded_by_their_own_kind(backbone: BackboneConfig) -> None:
    tokenizer = load_tokenizer(backbone)
    examples = [
        Example("words/test/0", "Reverse cat.", "", "tac", "tac", None, "words", "text"),
        Example("sums/test/0", "What is 3 + 4?", "", "7", "#### 7"),
        Example("yes/test/0", "Is it?", "", "A", "#### A", ("yes", "no"), "yes", "choice"),
    ]
    rows = encode(examples, Template(PromptFormat(), tokenizer), tokenizer)
    batch = Collate(0, "sums", 8, (), kind="number")(rows)
    texts = ["The word is tac.", "It is 7.0 pens.", "#### A"]
    tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    records = grade_batch(tokenizer, batch, tokens)
    assert [(record.dataset, record.kind, record.correct) for record in records] == [
        ("words", "text", True),
        ("sums", "number", True),
        ("yes", "choice", True),
    ]
    assert [record.strict_match is None for record in records] == [True, False, True]
