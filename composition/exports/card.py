"""Model card of a prompt on the Hugging Face Hub."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from promptstage import __version__
from promptstage.composition.configuration import flatten
from promptstage.composition.results import Evaluation
from promptstage.lightning_modules.adapters.files import LORA, Adapter
from promptstage.lightning_modules.backbone.loading import SHIPPED, BackboneConfig
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.utilities.errors import printable

CONFIG = "config.yaml"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TAGS = {"PROMPT_TUNING": "prompt-tuning", "PREFIX_TUNING": "prefix-tuning", LORA: "lora"}
# Options of a run that the card states, by flat names, with the words for them.
_STATED = {
    "model.init_args.optimizer.lr": "learning rate",
    "trainer.max_steps": "optimizer steps (maximum)",
    "data.init_args.batch_size": "batch size",
    "seed_everything": "seed",
}
_USE = """\
```python
import promptstage as ps
from huggingface_hub import snapshot_download

prompt = ps.load(snapshot_download("{repository}"){backbone})
print(prompt.generate("QUESTION"))
```
"""
_PEFT_USE = """
PEFT loads it, too:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{repository}")
```
"""
_PADDING = """
Generate with PEFT one question at a time: in left-padded batches, PEFT gives tokens other positions.
"""


def model_card(
    repository: str,
    module: SoftPromptModule,
    adapter: Adapter | None,
    reason: str,
    config: Mapping[str, Any] | None,
    evaluation: Evaluation | None,
) -> str:
    """Return the text of ``README.md``.

    Args:
        adapter: the prompt in PEFT's form; None: PEFT cannot hold it.
        reason: why PEFT cannot hold it.
        config: configuration of the run; None: unknown.
        evaluation: results on the test split; None: none.
    """
    method, backbone = type(module).__name__, module.backbone_config
    flat = flatten(config or {})
    rows = [("method", method), ("base model", f"`{_name(backbone.name)}`{_revision(backbone)}")]
    rows += [(name, _code(str(value))) for name, value in module.structure().items()]
    if (count := getattr(module, "num_virtual_tokens", None)) is not None:
        rows.append(("virtual tokens", str(count)))
    rows.append(("data", _data(module, flat)))
    rows += [(words, _code(str(flat[name]))) for name, words in _STATED.items() if flat.get(name) is not None]
    rows.append(("accuracy", _accuracy(evaluation)))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    base = _name(backbone.name)
    known = _on_hub(backbone.name) or backbone.name in SHIPPED
    use = _USE.format(repository=repository, backbone="" if known else f', "{base}"')
    if adapter is None:
        use += f"\nOther programs cannot load it: {_code(reason)}.\n"
    elif backbone.name not in SHIPPED:  # promptstage's own models are not on the Hub
        use += _PEFT_USE.format(repository=repository, base=base)
        use += "" if adapter.kind == LORA else _PADDING
    reproduce = ""
    if config is not None:
        reproduce = f"\n## Training\n\n```bash\npromptstage fit -c {CONFIG}\n```\n"
    return (
        f"---\n{_front_matter(repository, module, adapter, flat, evaluation)}---\n\n"
        f"# {repository.partition('/')[2]}\n\n"
        f"{method} for a frozen language model, trained with promptstage {__version__}.\n\n"
        f"| | |\n| --- | --- |\n{table}\n\n## Use\n\n{use}{reproduce}"
    )


def _front_matter(
    repository: str,
    module: SoftPromptModule,
    adapter: Adapter | None,
    flat: Mapping[str, Any],
    evaluation: Evaluation | None,
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    base, data = module.backbone_config.name, flat.get("data.init_args.source")
    name = module.text_settings.dataset or "test"
    results = []
    if evaluation is not None:
        accuracy, total = evaluation.accuracy, len(evaluation.records)
        words = f"accuracy (95 % interval {accuracy.low:.3f} to {accuracy.high:.3f}, {total} questions)"
        results.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=data if _on_hub(data) else name,
                dataset_name=name,
                dataset_split="test",
                metric_type="accuracy",
                metric_value=round(float(accuracy), 4),
                metric_name=words,
            )
        )
    values = ModelCardData(
        base_model=base if _on_hub(base) else None,
        datasets=[data] if _on_hub(data) else None,
        library_name="promptstage" if adapter is None else "peft",
        pipeline_tag="text-generation",
        tags=["promptstage", *([] if adapter is None else [_TAGS[adapter.kind]])],
        model_name=repository.partition("/")[2],
        eval_results=results or None,
    )
    return values.to_yaml() + "\n"


def _on_hub(name: object) -> TypeGuard[str]:
    """Return whether a name is an id on the Hub, and not a folder of this machine."""
    return (
        isinstance(name, str)
        and _HUB_ID.fullmatch(name) is not None
        and name not in SHIPPED
        and not Path(name).exists()
    )


def _name(backbone: str) -> str:
    """Return the name of a backbone without the folders of this machine."""
    return _code(backbone if _on_hub(backbone) or backbone in SHIPPED else Path(backbone).name)


def _revision(backbone: BackboneConfig) -> str:
    return f", revision `{_code(backbone.revision)}`" if backbone.revision else ""


def _data(module: SoftPromptModule, flat: Mapping[str, Any]) -> str:
    name, source = module.text_settings.dataset, flat.get("data.init_args.source")
    if name is None:
        return "unknown"
    return f"{_code(name)}, `{_code(source)}`" if _on_hub(source) else _code(name)


def _accuracy(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "not tested"
    correct, total = sum(record["correct"] for record in evaluation.records), len(evaluation.records)
    return f"{evaluation.accuracy}, {correct} of {total} questions of the test split"


def _code(text: str) -> str:
    """Return a text that cannot end a cell or an inline code of Markdown."""
    return printable(text).replace("|", "\\|").replace("`", "'")
