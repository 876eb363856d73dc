"""Rows of every data set, in the field names of the hub."""

import json
from pathlib import Path
from typing import Any

GSM8K_ROWS = [
    {"question": f"What is {i} plus {i}?", "answer": f"It is {2 * i}.\n#### {2 * i}"} for i in range(12)
]
ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": GSM8K_ROWS,
    "math": [{"problem": row["question"], "solution": "It is $\\boxed{4}$."} for row in GSM8K_ROWS],
    "aqua": [
        {"question": row["question"], "options": ["A)1", "B)2"], "rationale": "Try.", "correct": "B"}
        for row in GSM8K_ROWS
    ],
    "arc": [
        {
            "question": row["question"],
            "choices": {"text": ["no", "yes"], "label": ["1", "2"]},
            "answerKey": "2",
        }
        for row in GSM8K_ROWS
    ],
    "prontoqa": [
        {
            "context": f"Max is {row['question']}",
            "question": "Is Max?",
            "options": ["A) True", "B) False"],
            "answer": "A",
            "explanation": ["Max is.", "He is."],
        }
        for row in GSM8K_ROWS
    ],
}
ROWS["metamathqa"] = [
    {"query": row["question"], "response": "Add.\nThe answer is: 4", "type": "GSM_Rephrased"}
    for row in GSM8K_ROWS
]
ROWS["sst2"] = [{"text": f"A film of {i} acts.", "label": i % 2} for i in range(12)]
ROWS["worldtree"] = [row | {"explanation": [{"text": "yes is a kind of answer"}]} for row in ROWS["arc"]]


def write_data(root: Path) -> None:
    """Write a folder of three splits for each data set."""
    for data, rows in ROWS.items():
        (root / data).mkdir()
        for split in ("train", "validation", "test"):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (root / data / f"{split}.jsonl").write_text(text, encoding="utf-8")
