"""Class names of earlier versions, which their configurations and checkpoints contain."""

# Before 0.2 the packages had no common name. Modules of the public classes then:
_MODULES = {
    "lightning_modules": {
        "DHAM": "dham",
        "LoRA": "lora",
        "PrefixTuning": "prefix_tuning",
        "Pretrained": "pretrained",
        "PromptTuning": "prompt_tuning",
    },
    "datamodules": {
        "AQuA": "aqua",
        "ARC": "arc",
        "GSM8K": "gsm8k",
        "Generated": "generated",
        "MATH": "math",
        "ProntoQA": "prontoqa",
        "WorldTree": "worldtree",
    },
    "callbacks": {"ACT": "act", "DPC": "dpc", "SaliencyDiagnostics": "saliency"},
}
_CURRENT = {
    old: f"promptstage.{name}"
    for package, classes in _MODULES.items()
    for name, module in classes.items()
    for old in (f"{package}.{name}", f"{package}.{module}.{name}")
}


def current_name(name: str) -> str:
    """Return the present name of a class; other names unchanged.

    >>> current_name("lightning_modules.dham.DHAM"), current_name("my_module.Method")
    ('promptstage.DHAM', 'my_module.Method')
    """
    return _CURRENT.get(name, name)
