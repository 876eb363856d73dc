"""Mutations of a model folder's JSON files: configuration, generation settings and tokenizer."""

from collections.abc import Iterator
from typing import Any

from tests.backbone_changes import Mutation, edited, put, with_code, write


def configs() -> Iterator[tuple[str, Mutation]]:
    odd = (
        "32",
        "x",
        None,
        -1,
        0,
        1.5,
        10**6,
        10**10,
        10**30,
        [],
        [1, 2],
        {},
        {"a": 1},
        True,
        "\ud800",
        float("nan"),
    )
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
    for key in (*keys, "intermediate_size", "head_dim", "max_position_embeddings", "rms_norm_eps"):
        for value in odd:
            yield f"{key} {value!r}", put("config.json", key, value)
    for key in (
        "model_type",
        "architectures",
        "hidden_act",
        "rope_parameters",
        "tie_word_embeddings",
        "dtype",
    ):
        for value in (
            "x",
            None,
            -1,
            10**10,
            [],
            ["x"],
            {},
            {"rope_type": "x"},
            True,
            "t5",
            "mamba",
            "gpt2",
            "float8",
        ):
            yield f"{key} {value!r}", put("config.json", key, value)
    more: dict[str, Any] = {
        "eos_token_id": 10**9,
        "bos_token_id": "x",
        "pad_token_id": -5,
        "quantization_config": {"quant_method": "gptq", "bits": 4},
        "attn_implementation": "kernels-community/flash-attn",
        "_attn_implementation": "eager",
        "transformers_version": 7,
        "id2label": "x",
        "layer_types": ["full_attention"] * 10**5,
        "text_config": {"num_hidden_layers": 10**9},
        "attention_bias": "yes",
        "pretraining_tp": 10**9,
        "torch_dtype": "os.system",
        "num_labels": 10**9,
    }
    for key, value in more.items():
        yield f"{key} {str(value)[:30]}", put("config.json", key, value)
    yield "quantization of x", put("config.json", "quantization_config", {"quant_method": "x"})
    yield "quantization 7", put("config.json", "quantization_config", 7)
    for text in (
        "{}",
        "[]",
        "null",
        "7",
        '"x"',
        "{",
        "[" * 10**5,
        '{"a": ' * 10**5,
        '{"a": 1' + "0" * 5000 + "}",
    ):
        yield f"config {text[:12]}", write("config.json", text)
    yield "config with a BOM", write("config.json", b"\xef\xbb\xbf{}")
    yield "config in UTF-16", write("config.json", "{}".encode("utf-16"))
    yield "config not UTF-8", write("config.json", b'{"a": "\xff"}')
    for text in (
        "{",
        "[]",
        "7",
        '{"eos_token_id": "x"}',
        '{"max_length": -1}',
        '{"temperature": "hot"}',
        '{"a": 7}',
    ):
        yield f"generation_config {text}", write("generation_config.json", text)
    for key in ("AutoModelForCausalLM", "AutoConfig"):
        yield f"code {key}", with_code("config.json", "auto_map", {key: "evil.Evil"})
    yield "custom generation", with_code("generation_config.json", "custom_generate", "evil")


def tokenizers() -> Iterator[tuple[str, Mutation]]:
    odd = (None, 7, "x", [], {}, {"type": "x"}, [{"id": -1}], [{"id": 2**40, "content": "a"}])
    for key in ("model", "added_tokens", "pre_tokenizer", "normalizer", "decoder", "post_processor"):
        for value in odd:
            yield f"tokenizer {key} {value!r}", put("tokenizer.json", key, value)
    for pattern in ("(", "(a+)+$"):
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        yield f"tokenizer splits at {pattern}", put("tokenizer.json", "pre_tokenizer", split)
    for key, value in (
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        ("truncation", {"max_length": -1}),
        ("padding", 7),
        ("version", 7),
    ):
        yield f"tokenizer {key} {value!r}", put("tokenizer.json", key, value)
    yield "tokenizer a list", write("tokenizer.json", "[]")
    yield "tokenizer nested", write("tokenizer.json", '{"model": ' * 10**5)
    yield "ids not numbers", edited("tokenizer.json", lambda v: v["model"].update(vocab={"a": "b"}))
    yield "ids huge", edited("tokenizer.json", lambda v: v["model"].update(vocab={"a": 2**40}))
    named: dict[str, tuple[Any, ...]] = {
        "tokenizer_class": ("Evil", "os.system", 7, []),
        "eos_token": (7, None, {}, {"content": 7}, []),
        "pad_token": (7, [], {"content": 7}),
        "chat_template": (7, {}, []),
        "model_max_length": ("x", 10**40, -1, None),
        "added_tokens_decoder": (7, {"x": 7}, {"-5": {"content": "a"}}),
        "extra_special_tokens": (7, {"a": 7}),
        "padding_side": ("up", 7),
        "auto_map": (7, {"AutoTokenizer": 7}),
        "backend": (7,),
        "name_or_path": (7,),
        "clean_up_tokenization_spaces": ("x",),
    }
    for key, values in named.items():
        for value in values:
            yield f"tokenizer_config {key} {value!r}", put("tokenizer_config.json", key, value)
    for text in ("{", "[]", "7", "null"):
        yield f"tokenizer_config {text}", write("tokenizer_config.json", text)
        yield f"special_tokens_map {text}", write("special_tokens_map.json", text)
        yield f"added_tokens {text}", write("added_tokens.json", text)
    code = {"AutoTokenizer": ["evil.Evil", None]}
    yield "code of a tokenizer", with_code("tokenizer_config.json", "auto_map", code)
    yield "code of a class", with_code("tokenizer_config.json", "tokenizer_class", "evil.Evil")
