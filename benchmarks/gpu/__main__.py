"""Command ``python -m benchmarks.gpu``."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu import correctness, decoding, measures, random_backbone, training
from benchmarks.gpu.device import facts
from benchmarks.gpu.report import Report
from benchmarks.gpu.sections import Bench, Section, run_sections
from benchmarks.gpu.sizes import FULL, MINIATURE

SECTIONS = (
    Section("float32", 0.25, correctness.float32),
    Section("bf16-mixed", 0.15, correctness.bf16_mixed),
    Section("4-bit", 0.1, correctness.four_bit),
    Section("random backbone", 0.15, random_backbone.build),
    Section("training step", 0.15, training.training),
    Section("saliency", 0.1, measures.saliency),
    Section("partition", 0.1, measures.partition),
    Section("decoding", 0.3, decoding.decoding),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all sections, and write ``gpu.md`` and ``gpu.json``; return 1 if a row failed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="Correctness and speed on one CUDA device."
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: in miniature")
    parser.add_argument("--minutes", type=float, default=8, help="total time budget (default: 8)")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder (default: runs/gpu)")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is available: use --device cpu for the miniature")
    if not args.minutes > 0:
        parser.error(f"--minutes must be > 0, got {args.minutes:g}")
    device = torch.device(args.device)
    report = Report(facts(device) | {"time budget": f"{args.minutes:g} minutes"})
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, FULL if device.type == "cuda" else MINIATURE, Path(folder))
        run_sections(SECTIONS, report, bench, 60 * args.minutes, args.out)
    print(f"{args.out / 'gpu.md'}: {report.count('passed')} passed, {report.count('failed')} failed")
    return 1 if report.count("failed") else 0


if __name__ == "__main__":
    sys.exit(main())
