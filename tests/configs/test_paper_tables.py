"""The tables of ``configs/``: every row is instantiated, and is as the papers say."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from promptstage.callbacks.act.callback import ACT
from promptstage.callbacks.dpc.callback import DPC
from promptstage.comparisons.flags import for_test
from promptstage.comparisons.plan import Again, Comparison, read
from promptstage.comparisons.references import SEED, UNTRAINED, rows_of
from tests.configs.files import COMPARISONS, CONFIGS, ROOT, name

TABLE2 = ["single", "uniform", "cosine", "euclidean", "cka"]


def absolute(flags: list[str]) -> list[str]:
    """Make the paths of configuration files absolute."""
    return [re.sub(r"^(--config=)?(configs/)", rf"\1{ROOT}/\2", flag) for flag in flags]


def without_references(comparison: Comparison, flags: list[str]) -> list[str]:
    """Replace references to a seed by 0, and to another row's run by that row's options of the backbone."""
    resolved = []
    for flag in flags:
        if rows := rows_of([flag]):
            own = without_references(comparison, comparison.flags(rows[0]))
            resolved += [option for option in own if option.startswith("--backbone.")]
        else:
            resolved.append(flag.replace(SEED, "0"))
    return resolved


@pytest.mark.parametrize("path", COMPARISONS, ids=name)
def test_every_row_is_instantiated(path: Path, instantiate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as there:
        there.chdir(ROOT)
        comparison = read(path)
        assert all(Path(flag).is_file() for flag in comparison.test_options if flag.startswith("configs/"))
    files = [file.removeprefix("configs/") for file in comparison.files]
    stages = {}
    for row, own in comparison.rows.items():
        if isinstance(own, Again):
            again = [*comparison.options, *absolute(comparison.rows[own.of]), *own.test]
            flags = [
                flag
                for flag in without_references(comparison, again)
                if not flag.startswith(("--save_every", "--early_stopping"))  # of fit alone
            ]
            *_, trainer, _ = instantiate(files, *flags, "--trainer.accelerator=cpu", command="test")
            corrected = any(isinstance(one, DPC | ACT) for one in trainer.callbacks)
            assert corrected == any(flag.startswith("--trainer.callbacks=") for flag in own.test)
            continue
        flags = without_references(comparison, [*comparison.options, *absolute(own)])
        untrained = UNTRAINED in own
        model, _, _, config = instantiate(
            files,
            *(for_test(flags) if untrained else flags),
            "--trainer.accelerator=cpu",
            command="test" if untrained else "fit",
        )
        assert type(model).__name__ == ("Pretrained" if untrained else config.model.class_path.split(".")[-1])
        stages[row] = (getattr(model, "partition", None), getattr(model, "num_stages", None))
        if path.parent.name in ("dham", "dpc"):
            assert model.backbone_config.name == backbone_of(path)
        if path.stem.startswith("table3") and path.parent.name == "dham":
            assert model.num_virtual_tokens == 64
    if path.parent.name == "dham" and path.stem.startswith("table3"):
        assert stages == {f"G={groups}": ("cka", groups) for groups in range(2, 9)}
    elif path.parent.name == "dham" and path.stem.startswith("table2"):
        fixed = 3 if "llama3" in path.stem else 4
        expected = {row: (row, fixed if row == "uniform" else None) for row in TABLE2}
        assert {row: values for row, values in stages.items() if row != "PT"} == expected
        assert ("PT" in stages) == ("llama3" in path.stem)
    elif path.stem == "demo":
        assert stages["DHAM"] == ("cka", None)


def backbone_of(path: Path) -> str:
    """Return the model name that a table's file name ends or begins with."""
    (file,) = [file for file in (CONFIGS / "backbone").iterdir() if file.stem in path.stem]
    return yaml.safe_load(file.read_text(encoding="utf-8"))["backbone"]["name"]


DPC_ROWS = ["Pretrained", "PT", "PT + ACT", "PT + DPC"]
MATHEMATICS = ["GSM8K", "MATH", "AQuA"]
METHODS = ["Pretrained", "PT", "prefix tuning", "PT + ACT", "LoRA", "PT + DPC", "DHAM"]
PAPER_TABLES = {
    **{f"dpc/table1_{model}": (DPC_ROWS, MATHEMATICS) for model in ("llama2_13b", "llama3_8b", "mistral_7b")},
    "dpc/table2_llama3_8b": (["PT", "DPC", "random", "random, all", "all"], MATHEMATICS),
    **{
        f"dpc/table3_{model}": (["PT", "DPC"], ["ProntoQA", "ARC", "WorldTree"])
        for model in ("llama3_8b", "mistral_7b")
    },
    **{
        f"dham/table1_{model}": (METHODS, MATHEMATICS)
        for model in ("llama2_13b", "llama3_8b", "mistral_7b", "deepseek_7b")
    },
}


@pytest.mark.parametrize("table", PAPER_TABLES)
def test_the_papers_tables_have_their_rows(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    methods, data = PAPER_TABLES[table]
    rows = read(CONFIGS / "experiment" / f"{table}.yaml").rows
    assert list(rows) == [f"{name} {method}" for name in data for method in methods]
    calibrated = {row for row, own in rows.items() if isinstance(own, Again) and own.calibrate}
    assert calibrated == {row for row in rows if row.endswith(("DPC", "random"))}


# DPC's appendix A.1, and what DHAM's section 5.1 says of its own prompts.
START = {"llama3_8b": "random", "llama2_13b": "text", "mistral_7b": "text", "deepseek_7b": "vocabulary"}


@pytest.mark.parametrize("table", [table for table in PAPER_TABLES if "table2" not in table])
def test_prompts_match_the_papers(table: str, instantiate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as there:
        there.chdir(ROOT)
        comparison = read(CONFIGS / "experiment" / f"{table}.yaml")
    model = re.sub(r".*/table\d_", "", table)
    files = [file.removeprefix("configs/") for file in comparison.files]
    for row, own in comparison.rows.items():
        if isinstance(own, Again) or not row.endswith(("PT", "DHAM")):
            continue
        module, data, *_ = instantiate(
            files, *comparison.options, *absolute(own), "--trainer.accelerator=cpu"
        )
        if row.endswith("DHAM"):
            assert (module.num_virtual_tokens, module.optimizer_config.lr) == (64, 2e-5)
            assert (module.search.min_stages, module.search.max_stages) == (3, 5)
            continue
        assert (module.num_virtual_tokens, module.optimizer_config.lr) == (100, 1e-3)
        assert (module.insert_at, data.batch_size) == (0, 8)
        assert module.init.kind == START[model]
        if START[model] == "text" and "table1" in table:
            assert module.init.preset == row.split()[0].lower()


def test_figure_3_inserts_at_the_papers_layers(instantiate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as there:
        there.chdir(ROOT)
        comparison = read(CONFIGS / "experiment/dham/figure3_llama3_8b.yaml")
    files = [file.removeprefix("configs/") for file in comparison.files]
    layers = {}
    for row, own in comparison.rows.items():
        assert isinstance(own, list)
        if UNTRAINED not in own:
            module, *_ = instantiate(files, *comparison.options, *own, "--trainer.accelerator=cpu")
            assert (module.num_virtual_tokens, module.optimizer_config.lr) == (64, 2e-5)
            layers[row] = module.insert_at + 1
    assert layers == {f"Layer {layer}": layer for layer in (1, 9, 14, 24)}
