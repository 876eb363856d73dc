"""Seven kinds of tokenizers, built without downloads."""

import json
from typing import Any

TEXT = """\
Question: Mira has 3 pears and buys 4 more. How many pears does she have? What is the sum of 12 and 30?
Answer: She has 3 + 4 = 7 pears. The answer is 42. Let's think step by step. So there are ten in all.
"""
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_CHAT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token }}[INST] "
    "{{ message['content'] | trim }} [/INST]{% else %} {{ message['content'] | trim }} {{ eos_token }}"
    "{% endif %}{% endfor %}"
)
KINDS = ("embedded", "llama3", "mistral", "gpt2", "qwen", "gemma", "wordpiece")
"""Byte-level BPE with a BOS (2), ``▁`` prepended by the normalizer, byte-level BPE without a BOS (2), ``▁``
for spaces only, and WordPiece with [CLS] and [SEP]."""


def make(kind: str) -> Any:
    """Build the fast tokenizer of one kind."""
    if kind == "embedded":
        from promptstage.backbones.embedded.train import build_tokenizer

        return build_tokenizer()
    return {"wordpiece": _wordpiece, "mistral": _sentencepiece, "gemma": _sentencepiece}.get(
        kind, _byte_level
    )(kind)


def _byte_level(kind: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    special = {
        "llama3": ["<|begin_of_text|>", "<|end_of_text|>"],
        "gpt2": ["<|endoftext|>"],
        "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    }[kind]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    if kind == "gpt2":
        return _wrap(tokenizer, bos_token=special[0], eos_token=special[0])
    if kind == "qwen":
        return _wrap(tokenizer, CHAT, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return _wrap(_with_bos(tokenizer, special[0]), bos_token=special[0], eos_token=special[1])


def _sentencepiece(kind: str) -> Any:
    """Build a tokenizer like LLaMA's: merges within words, and a normalizer instead of a splitter."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    special = ["<unk>", "<s>", "</s>"]
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    learned.train_from_iterator(
        [TEXT.replace("\n", " ")] * 4,
        trainers.BpeTrainer(vocab_size=260, special_tokens=special, show_progress=False),
    )
    model = json.loads(learned.to_str())["model"]
    vocabulary = dict(model["vocab"])
    characters = ["▁", *(chr(i) for i in range(33, 127)), *(f"<0x{i:02X}>" for i in range(256)), "▁▁"]
    for token in characters:
        vocabulary.setdefault(token, len(vocabulary))
    merges = [(left, right) for left, right in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[*merges, ("▁", "▁")], unk_token="<unk>", byte_fallback=True)
    )
    blanks = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = (
        blanks if kind == "gemma" else normalizers.Sequence([normalizers.Prepend("▁"), blanks])
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps if kind == "gemma" else [*steps, decoders.Strip(" ", 1, 0)])
    return _wrap(
        _with_bos(tokenizer, "<s>"), LLAMA_CHAT, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _wordpiece(kind: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    alphabet = [chr(i) for i in range(33, 127)]
    tokenizer.train_from_iterator(
        [TEXT] * 4,
        trainers.WordPieceTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return _wrap(tokenizer, bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]")


def _with_bos(tokenizer: Any, bos: str) -> Any:
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return tokenizer


def _wrap(tokenizer: Any, chat: str | None = None, **special: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = chat
    if fast.pad_token is None:
        fast.pad_token = fast.eos_token
    return fast
