"""Damaged and malicious model folders: each is loaded, or refused in one line, and runs no code.

``python -m tests.mutate_backbones [--seed N] [--flips N]`` prints a line for each mutation and the counts.
"""

import argparse
import faulthandler
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.backbone_changes import WEIGHTS, Mutation, canary, flip
from tests.backbone_texts import configs, tokenizers
from tests.backbone_weights import indexes, pickles, weights

SECONDS = 60


class Hang(BaseException):
    """Timeout of a folder."""


def mutations(flips: int = 0, seed: int = 0) -> list[tuple[str, Mutation]]:
    """List all mutations by name; ``flips`` bit flips per file come last."""
    every = [*weights(), *pickles(), *indexes(), *configs(), *tokenizers()]
    files = (WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
    for name in files:
        every += [(f"{name} flipped {i}", flip(name, seed + i)) for i in range(flips)]
    return every


def outcome(folder: Path) -> tuple[str, str]:
    """Load a folder; return loaded, refused, TRACEBACK, HANG or CODE RUN, and the message."""
    from promptstage.lightning_modules.backbone.loading import BackboneConfig, context_length, load_tokenizer
    from promptstage.lightning_modules.backbone.model import Backbone
    from promptstage.utilities.errors import UserError

    def late(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True)  # inside a library that never returns
    config = BackboneConfig(name=str(folder))
    try:
        load_tokenizer(config)("1 + 1")
        context_length(config)
        Backbone(config)
    except UserError as error:
        text = str(error)
        verdict = "refused" if len(text.splitlines()) == 1 and text.isprintable() else "TRACEBACK"
    except Hang:
        verdict, text = "HANG", ""
    except BaseException as error:
        verdict, text = "TRACEBACK", f"{type(error).__name__}: {error}"
    else:
        verdict, text = "loaded", ""
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
    return ("CODE RUN" if canary(folder).exists() else verdict), text.replace(str(folder), "FOLDER")


def mutated(tiny: Path, work: Path, mutation: Mutation) -> tuple[str, str]:
    """Return the :func:`outcome` of a mutated copy of the folder ``tiny``, made in ``work``."""
    folder = work / "model"
    shutil.copytree(tiny, folder)
    try:
        mutation(folder)
        return outcome(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        canary(folder).unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the flipped bits")
    parser.add_argument("--flips", type=int, default=20, help="folders with flipped bits for each file")
    parser.add_argument("--only", default="", help="mutations with this in their name")
    args = parser.parse_args()
    from tests.tiny_folder import save_tiny_backbone

    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        tiny = save_tiny_backbone(Path(name) / "tiny")
        for title, mutation in mutations(args.flips, args.seed):
            if args.only in title:
                verdict, text = mutated(tiny, Path(name), mutation)
                counts[verdict] += 1
                print(f"{verdict:9} {title[:50]:50} {text[:160]}", flush=True)
    print(dict(counts), "of", counts.total())
    return int(bool(counts["TRACEBACK"] + counts["HANG"] + counts["CODE RUN"]))


if __name__ == "__main__":
    sys.exit(main())
