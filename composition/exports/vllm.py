"""Export for vLLM: a prompt's embeddings, an example that serves them, and what to know.

vLLM takes embeddings in place of tokens (https://docs.vllm.ai/en/latest/features/prompt_embeds/).
"""

import io
from pathlib import Path
from typing import Any

import torch

from promptstage.composition.exports import vllm_example
from promptstage.datamodules.prompt_format import SLOT
from promptstage.datamodules.templates import Template
from promptstage.datamodules.token_ids import adds_bos
from promptstage.lightning_modules.adapters.export import base_model, prompt_rows
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.prompt_tuning import PromptTuning
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import write_bytes, write_text
from promptstage.utilities.json_text import dump_json

README = """\
# Soft prompt for vLLM

`soft_prompt.pt` has the {rows} embeddings that precede every question: a tensor of shape
({rows}, {width}), written by `torch.save`. `settings.json` has the text around a question that
the prompt was trained with. The model is `{model}`.

```bash
python example.py "QUESTION"                                        # offline
vllm serve {model} --enable-prompt-embeds
python example.py "QUESTION" --server http://localhost:8000/v1      # OpenAI-compatible server
```

- **Prefix caching.** The example embeds the question, too, so that every row of a request is an
  embedding. vLLM also accepts token ids beside embeddings (`prompt_token_ids` with
  `prompt_is_token_ids`). Its prefix cache does not distinguish the two kinds of rows
  (vllm-project/vllm#56655), which gives wrong outputs: start it with
  `--no-enable-prefix-caching` for such requests.
- **Chat completions** put the chat template around the embeddings of a message. A prompt that
  precedes the template needs the completions API, as in the example.
- **Other numbers.** `temperature` 0 is greedy decoding, as in promptstage. Kernels and dtypes
  differ, so that single tokens may differ, too.
- promptstage's tests compare the embeddings of the example with its own input of the model. vLLM
  itself was not run.
"""


def write_vllm_folder(folder: Path, module: SoftPromptModule) -> None:
    """Write ``soft_prompt.pt``, ``settings.json``, ``example.py`` and ``README.md``.

    Raises:
        UserError: if the method is not prompt tuning at the input, or the folder cannot be written to.
    """
    if type(module) is not PromptTuning:
        raise UserError(
            f"{type(module).__name__} cannot be exported to vLLM, which takes embeddings only: method must "
            "be PromptTuning"
        )
    module.create_prompts()
    rows, leading = prompt_rows(module)
    content = io.BytesIO()
    torch.save(rows.cpu(), content)
    write_bytes(folder / "soft_prompt.pt", content.getvalue())
    settings = _settings(module, omits_bos=bool(leading))
    write_text(folder / "settings.json", dump_json(settings) + "\n")
    write_text(folder / "example.py", Path(vllm_example.__file__).read_text(encoding="utf-8"))
    readme = README.format(rows=len(rows), width=rows.shape[1], model=settings["model"])
    write_text(folder / "README.md", readme)


def _settings(module: PromptTuning, omits_bos: bool) -> dict[str, Any]:
    """Return the model, and the text around a question and its generation."""
    text, tokenizer = module.text_settings, module.tokenizer
    template = Template(text.format, tokenizer)
    rendered = template.render(SLOT)
    start, end = rendered.question
    return {
        "model": base_model(module.backbone_config),
        "revision": module.backbone_config.revision,
        "before": rendered.text[:start],
        "after": rendered.text[end:],
        "add_special_tokens": not template.is_chat,
        "omits_bos": omits_bos and adds_bos(tokenizer),
        "stop": list(text.stop),
        "max_tokens": text.max_new_tokens,
    }
