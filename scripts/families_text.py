"""Text of the page of model families."""

INTRODUCTION = [
    "# Model families",
    "",
    "This page covers every causal language model type of transformers. A tiny random model of each type "
    "(hidden size 32, 4 layers, float32) is saved and loaded as a backbone. If it is accepted, it is "
    "compared with a reference: transformers' eager attention over the prefix as ordinary tokens, one "
    "example at a time. The comparison covers logits, the loss of packed examples (without padding), the "
    "gradient of the prompt, and batched greedy generation with left padding, with and without a prefix. "
    "`difference` is the largest difference, in standard deviations of the reference. The verdicts are:",
    "",
]

NOTES = [
    "",
    "The check at load time (`lightning_modules/backbone/verification.py`) does not depend on model "
    "families. It compares the model on a few tokens after a prefix with the same model on the same "
    "tokens as text: packed, with a prompt at a later layer, in cached generation, and in the gradient "
    "of the prompt. A passed check is cached for the user, and is repeated if weights, dtype or library "
    "versions change.",
    "",
    "`promptstage doctor MODEL` prints the differences of this check for a model, and tries every method "
    "on it. With `--random`, it uses a tiny random model as on this page, but with the settings in the "
    "model's `config.json`.",
    "",
    "## What a prefix means in special layers",
    "",
    "- **Sliding windows.** A prefix stays visible in every layer, whereas a window hides the same "
    "tokens as text from content that is further away than the window. Windows are read from "
    "transformers' masks.",
    "- **Chunks** (Llama 4). Content attends to its own chunk of positions, and to all of a prefix; "
    "chunks begin at the same positions as in a text with the prefix as ordinary tokens. The factor that "
    "scales Llama 4's queries depends on their position, also in packed and padded batches, whereas in "
    "transformers it depends on the index in the row.",
    "- **Attention sinks** (gpt-oss, MiMo-V2, Granite SWA, Flint). A sink takes part in the softmax but "
    "is not a column of the attention weights: the weights of a row sum to less than 1, and saliency, "
    "rollout and attention calibration leave sinks out.",
    "- **Capped scores** (Gemma 2, VaultGemma). Scores are capped before the softmax. No fused kernel "
    "does this: attention weights are materialized, as in eager attention, with the memory that this "
    "needs.",
    "- **Latent attention** (DeepSeek V2 and V3, GLM-4.7-Flash, MiniCPM3, Youtu). The cache holds "
    "latents of the content; expanded keys and values of the prefix are prepended in each step. Keys and "
    "values differ in width, so that `PrefixTuning` trains a tensor for each.",
    "- **Shared keys and values** (Gemma 3n, Gemma 4). Later layers reuse the keys and values of an "
    "earlier one, those of a soft prompt included; `PrefixTuning` nevertheless trains a prefix for each "
    "layer. A soft prompt can start only at a layer that computes keys and values: `insert_at` and the "
    "stages of DHAM are checked.",
    "- **Per-layer embeddings** (Gemma 3n, small Gemma 4). A virtual token has the padding token's "
    "embedding in each layer, as image and audio tokens do in transformers; the reference uses the same. "
    "The part that the model projects from the input of the first layer is projected from the prompt, "
    "and is zero for a late prompt.",
    "- **Token mixers** (linear attention, state-space layers, short convolutions: Qwen3.5, Falcon-H1, "
    "LFM2, Granite 4, Nemotron-H). Content starts from their state after the virtual tokens. "
    "`PrefixTuning` trains keys and values of the layers with attention only. The mixers of Jamba, Mamba "
    "and Falcon-Mamba ignore a given state if they process several tokens: they process the virtual "
    "tokens again, before the tokens of each example. Mamba has no attention at all, so that "
    "`PrefixTuning`, saliency, DPC and ACT are rejected.",
    "- **Several streams** (Gemma 3n). Late prompts enter, and features for CKA are taken from, the "
    "active stream.",
    "- **Stored in 4 bits** (gpt-oss, MXFP4). The weights are dequantized while they are loaded, because "
    "gradients do not flow through their kernels.",
    "- **Sparse attention** (DeepSeek V3.2, GLM-5, MiniMax M3). Layers in which an indexer selects the "
    "tokens to attend to are rejected, because the indexer does not see the prefix.",
    "",
]

METHODS_INTRODUCTION = [
    "### Methods",
    "",
    "Families that many people use are compared in every method and feature. A number is the largest "
    "difference from a reference that shares no code with promptstage's attention, in standard deviations"
    " of the reference; `no` refers to the program's message below the table. The columns are:",
    "",
    "- `logits`, `loss`, `gradient`, `generation`, `without prefix`: as above. In generation the "
    "difference is that between the largest logit of the reference and the logit of the generated token.",
    "- `late prompt`, `DHAM`, `DHAM, replace`: logits, packed losses and gradients of a prompt at the "
    "input of the middle layer, and of two stages, of which the second starts there. The reference "
    "overwrites hidden states of real tokens in transformers' own model, or inserts rows there if layers "
    "mix tokens without attention.",
    "- `CKA`: features of all layers. The reference is the mean output of each block of transformers' "
    "model, one text at a time.",
    "- `PrefixTuning`: logits, packed losses and gradients. The reference is transformers' model that is "
    "given the keys and values in its `DynamicCache`.",
    "- `checkpointing`: gradients of all methods with and without gradient checkpointing, relative to the"
    " largest entry of each gradient.",
    "- `saliency`: all layers with attention. The reference is autograd's gradient of transformers' eager"
    " attention weights.",
    "- `LoRA`: packed losses and gradients of all adapters, with nonzero weights. The reference is peft's "
    "adapters in transformers' model, one text at a time.",
    "",
    "The larger differences of Qwen3.5 and Qwen3-Next are rounding in linear attention: transformers' own "
    "gradients in float32 differ as much from those in float64. In float64 all agree to 1e-9 (tests).",
    "",
]
