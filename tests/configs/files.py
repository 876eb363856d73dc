"""The files of ``configs/``: those for ``cli.py``, and the tables of ``promptstage compare``."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
EVERY = sorted(CONFIGS.rglob("*.yaml"))
COMPARISONS = [path for path in EVERY if path.parent.parent.name == "experiment" or path.stem == "demo"]
FILES = [path for path in EVERY if path not in COMPARISONS]
EXPERIMENTS = [path for path in FILES if path.parent.name == "experiment"]


def name(path: Path) -> str:
    """Return the path below ``configs/``, for test ids and ``-c``."""
    return str(path.relative_to(CONFIGS))
