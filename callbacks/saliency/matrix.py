"""Saliency and attention among all tokens of one example, and their files.

``STEM_matrix.safetensors`` holds the saliency, ``STEM_attention_matrix.safetensors`` the attention weights.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from promptstage.callbacks.saliency.files import Floats, as_float32, read_arrays
from promptstage.utilities.errors import UserError
from promptstage.utilities.reading import validated
from promptstage.utilities.tensor_files import write_tensors

Kind = Literal["saliency", "attention"]
_NAMES: dict[Kind, str] = {"saliency": "matrix", "attention": "attention_matrix"}


class Matrix(NamedTuple):
    """Saliency, or attention weights (mean over heads), among all tokens of one example.

    Attributes:
        panels: (n, M + n) by the panel's name, columns as in ``lightning_modules.diagnosis.matrices``.
        tokens: texts of the n tokens.
        question, rationale: half-open ranges of tokens.
    """

    id: str
    panels: dict[str, Floats]
    tokens: list[str]
    question: tuple[int, int]
    rationale: tuple[int, int]


class ExampleMatrices(NamedTuple):
    """Saliency and attention of one example."""

    id: str
    saliency: Matrix
    attention: Matrix

    def write(self, folder: Path, stem: str) -> None:
        """Write both to a folder."""
        write_matrix(self.saliency, folder, stem)
        write_matrix(self.attention, folder, stem, "attention")


@dataclass(frozen=True)
class MatrixAbout:
    """Metadata of a stored :class:`Matrix`, with the names of its panels in their order."""

    id: str
    panels: list[str]
    tokens: list[str]
    question: tuple[int, int]
    rationale: tuple[int, int]


def write_matrix(matrix: Matrix, folder: Path, stem: str, kind: Kind = "saliency") -> None:
    """Write a matrix to a folder."""
    # The file sorts its arrays by name: the order of the panels is stored beside them.
    about = matrix._asdict() | {"panels": list(matrix.panels)}
    write_tensors(folder / f"{stem}_{_NAMES[kind]}.safetensors", as_float32(matrix.panels), about)


def load_matrix(folder: Path, stem: str = "saliency", kind: Kind = "saliency") -> Matrix | None:
    """Read a matrix from a folder; None without one. Raises as ``saliency_files.load``."""
    path = folder / f"{stem}_{_NAMES[kind]}.safetensors"
    if not path.exists():
        return None
    panels, values = read_arrays(path)
    about = validated(MatrixAbout, values, f"saliency {path}")
    shapes = {panels[name].shape for name in about.panels if name in panels}
    if len(shapes) != 1 or not set(about.panels) <= panels.keys():
        raise UserError(f"saliency {path}: panels {about.panels} must be arrays of the same shape")
    if len(shape := shapes.pop()) != 2 or not shape[1] >= shape[0] == len(about.tokens):
        raise UserError(
            f"saliency {path}: panels must have {len(about.tokens)} rows, one per token, got shape {shape}"
        )
    chosen = {name: panels[name] for name in about.panels}
    return Matrix(about.id, chosen, about.tokens, about.question, about.rationale)
