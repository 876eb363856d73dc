"""Write the tokenizer and the configurations of the small models over digits.

    python -m promptstage.backbones.digits.make

The vocabulary is ``<eos>``, a filler ``_`` and the digits; spaces only separate tokens. The filler holds the
positions that the virtual tokens of a prefix take later: GPT-2's position embeddings are learned, so that a
model has to be pretrained with content at these positions.
"""

import json
from pathlib import Path
from typing import Any

from transformers import GPT2Config, PreTrainedTokenizerFast

FOLDER = Path(__file__).parent
TOKENS = ["<eos>", "_", *"0123456789"]
POSITIONS = 64
# Layers, heads and width of "When do prompting and prefix-tuning work? A theory of capabilities and
# limitations", Petrov, Torr and Bibi, ICLR 2024, arXiv:2310.19698.
SIZES = ((1, 1, 96), (1, 4, 256), (4, 4, 256))


def folder_name(layers: int, heads: int, width: int) -> str:
    """Return the name of a configuration's folder.

    >>> folder_name(1, 4, 256)
    'layers1_heads4_width256'
    """
    return f"layers{layers}_heads{heads}_width{width}"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer with one token for each digit, whose texts are digits separated by spaces."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token="_"))
    steps = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=TOKENS[0], pad_token=TOKENS[0], model_max_length=POSITIONS
    )


def make_config(layers: int, heads: int, width: int) -> GPT2Config:
    """Build a configuration without dropout, which frozen and fine-tuned models do not use."""
    dropout: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2Config(
        vocab_size=len(TOKENS),
        n_positions=POSITIONS,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        activation_function="gelu_pytorch_tanh",  # GPT-2's, in one kernel
        tie_word_embeddings=False,
        architectures=["GPT2LMHeadModel"],
        **dropout,
    )


def main() -> None:
    """Write one folder for each size."""
    tokenizer = make_tokenizer()
    for sizes in SIZES:
        folder = FOLDER / folder_name(*sizes)
        folder.mkdir(exist_ok=True)
        tokenizer.save_pretrained(folder)
        config = make_config(*sizes).to_diff_dict()
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
