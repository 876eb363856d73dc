"""CPU time of commands, compared with the imports that they need.

``fit --help`` needs LightningCLI; ``test``, of 16 questions on the embedded backbone with 4 new tokens each,
needs LightningCLI, the model and tokenizer classes of transformers, and TensorBoard. CPU time, in one thread,
depends little on other programs. Prints medians over alternating repeats, and ratios. ``--reference FOLDER``
also measures another checkout.

python -m benchmarks.startup
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLI = "from lightning.pytorch.cli import LightningCLI"
MODEL = (
    "from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast"
)
FIT = """fit --model PromptTuning --model.num_virtual_tokens 10 --model.val_generations 0 --data Generated
    --data.task addition --data.train_size 32 --data.validation_size 4 --trainer.max_steps 1"""
TEST = "test --data.test_size 16 --data.max_new_tokens 4"
# Commands of the checkout, and the imports that they need.
COMMANDS = {
    "fit --help": (["fit", "--help"], f"{CLI}"),
    "test": (TEST.split(), f"{CLI}; {MODEL}; import torch.utils.tensorboard"),
    "--help": (["--help"], "import sys"),
}


def cpu_seconds(arguments: list[str], folder: str) -> float:
    """Measure the CPU time of a new Python process, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": folder},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--reference", type=Path, help="another checkout")
    args = parser.parse_args()

    checkouts = {"": ROOT} | ({" (reference)": args.reference.resolve()} if args.reference else {})
    with tempfile.TemporaryDirectory() as folder:
        run = ["--run_dir", f"{folder}/run", "--trainer.accelerator", "cpu"]
        cpu_seconds([str(ROOT / "cli.py"), *FIT.split(), *run], folder)
        actions = {}
        for name, (options, imports) in COMMANDS.items():
            actions[f"imports for {name}"] = ["-c", imports]
            tested = ["--ckpt_path", f"{folder}/run", "--trainer.accelerator", "cpu"]
            extra = tested if name == "test" else []
            for suffix, checkout in checkouts.items():
                actions[name + suffix] = [str(checkout / "cli.py"), *options, *extra]
        for arguments in actions.values():
            cpu_seconds(arguments, folder)  # fill caches
        seconds: dict[str, list[float]] = {name: [] for name in actions}
        for _ in range(args.repeats):
            for name, arguments in actions.items():
                seconds[name].append(cpu_seconds(arguments, folder))
    for name in COMMANDS:
        needed = seconds[f"imports for {name}"]
        print(f"imports for {name}: {statistics.median(needed):.2f} s")
        for suffix in checkouts:
            pairs = zip(seconds[name + suffix], needed, strict=True)
            ratio = statistics.median(own / imports for own, imports in pairs)
            print(f"{name + suffix}: {statistics.median(seconds[name + suffix]):.2f} s, {ratio:.2f} times")


if __name__ == "__main__":
    main()
