"""Answer a question with a soft prompt in vLLM, offline or by a server.

python example.py "QUESTION"
python example.py "QUESTION" --server http://localhost:8000/v1
"""

import argparse
import base64
import io
import json
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent


def read_settings(folder: Path = FOLDER) -> dict[str, Any]:
    """Read the model's name and the text around a question."""
    settings: dict[str, Any] = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    return settings


@torch.no_grad()
def prompt_embeds(question: str, tokenizer: Any, embedding: Any, folder: Path = FOLDER) -> torch.Tensor:
    """Return the embeddings of soft prompt and question, (m + n, hidden size), in the model's dtype.

    Args:
        embedding: the model's module of input embeddings, since some models scale the rows of its matrix.
    """
    settings = read_settings(folder)
    text = settings["before"] + question.strip() + settings["after"]
    ids = tokenizer(text, add_special_tokens=settings["add_special_tokens"])["input_ids"]
    if settings["omits_bos"] and ids[:1] == [tokenizer.bos_token_id]:
        ids = ids[1:]
    content = embedding(torch.tensor(ids))
    prompt = torch.load(folder / "soft_prompt.pt", weights_only=True)
    return torch.cat([prompt.to(content.dtype), content])


def encoded(embeds: torch.Tensor) -> str:
    """Encode a tensor for a request: torch.save in base64."""
    content = io.BytesIO()
    torch.save(embeds, content)
    return base64.b64encode(content.getvalue()).decode()


def offline(embeds: torch.Tensor, settings: dict[str, Any]) -> str:
    """Generate in this process."""
    from vllm import LLM, SamplingParams

    llm = LLM(model=settings["model"], revision=settings["revision"], enable_prompt_embeds=True)
    sampling = SamplingParams(temperature=0, max_tokens=settings["max_tokens"], stop=settings["stop"])
    (output,) = llm.generate({"prompt_embeds": embeds}, sampling)
    return str(output.outputs[0].text)


def served(embeds: torch.Tensor, settings: dict[str, Any], server: str) -> str:
    """Generate on a server that was started with ``--enable-prompt-embeds``."""
    from openai import OpenAI

    completion = OpenAI(base_url=server, api_key="EMPTY").completions.create(
        model=settings["model"],
        prompt=None,
        temperature=0,
        max_tokens=settings["max_tokens"],
        stop=settings["stop"],
        extra_body={"prompt_embeds": encoded(embeds)},
    )
    return str(completion.choices[0].text)


def main() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question")
    parser.add_argument("--server", help="address of an OpenAI-compatible server; default: offline")
    options = parser.parse_args()
    settings = read_settings()
    source = {"revision": settings["revision"]} if settings["revision"] else {}
    tokenizer = AutoTokenizer.from_pretrained(settings["model"], **source)
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype="auto", **source)
    embeds = prompt_embeds(options.question, tokenizer, model.get_input_embeddings())
    del model
    answer = served(embeds, settings, options.server) if options.server else offline(embeds, settings)
    print(answer)


if __name__ == "__main__":
    main()
