"""Bodies of requests: OpenAI's parameters, each of which takes effect or is refused."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from promptstage.serving.errors import APIError
from promptstage.utilities.errors import nearest

MOST_STOPS, LONGEST_STOP = 16, 256
# Parameters without an influence on the texts.
IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
# Parameters that are not supported, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}


class StreamOptions(BaseModel):
    """Options of streams."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: bool = False  # not needed: accepted without effect


class Sampled(BaseModel):
    """Parameters of both endpoints.

    Attributes:
        temperature: divisor of the logits; 0 (default): greedy decoding.
        seed: seed of the samples; None: another one for each request.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1)] = 1
    stop: str | list[str] = []
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end a generation; none: those of the prompt's training data."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def includes_usage(self) -> bool:
        """Return whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


Tokens = Annotated[list[int], Field(min_length=1)]


class CompletionRequest(Sampled):
    """Body of ``/v1/completions``."""

    prompt: str | Tokens | Annotated[list[str] | list[Tokens], Field(min_length=1)]

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts, each as text or token ids."""
        given: Any = self.prompt
        return [given] if isinstance(given, str) or isinstance(given[0], int) else given


class TextPart(BaseModel):
    """Part of a message; only texts are supported."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """Message of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: part for key, part in value.items() if part is not None}

    @property
    def text(self) -> str:
        """The text of all parts."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Sampled):
    """Body of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def most_tokens(self) -> int | None:
        """The limit of new tokens, by either of its names."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


R = TypeVar("R", bound=Sampled)


def parse(cls: type[R], body: bytes) -> R:
    """Parse and check a body.

    Raises:
        APIError: with status 400, naming the first parameter that is wrong.
    """
    try:
        values = json.loads(body, parse_constant=_no_number)
        json.dumps(values, ensure_ascii=False).encode()  # a lone surrogate cannot be tokenized
    except UnicodeEncodeError as error:
        raise APIError(400, "a text of the body has a lone surrogate") from error
    except (ValueError, RecursionError) as error:
        raise APIError(400, f"the body is not valid JSON: {str(error)[:100]}") from error
    if not isinstance(values, dict):
        raise APIError(400, "the body must be a JSON object")
    values = {name: value for name, value in values.items() if value is not None and name not in IGNORED}
    _check_supported(values, cls)
    try:
        request = cls.model_validate({name: value for name, value in values.items() if name not in NEUTRAL})
    except ValidationError as error:
        raise _refused(error) from error
    lengths = [len(text) for text in request.stops]
    if len(lengths) > MOST_STOPS or not all(1 <= length <= LONGEST_STOP for length in lengths):
        message = f"stop must be up to {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters"
        raise APIError(400, message, param="stop")
    return request


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _check_supported(values: Mapping[str, Any], cls: type[Sampled]) -> None:
    """
    Raises:
        APIError: for a parameter that is unknown, or asks for what is not supported.
    """
    known = {*cls.model_fields, *NEUTRAL}
    for name, value in values.items():
        if name not in known:
            hint = nearest(name, known).partition("Allowed:")[0].strip()
            hint = hint if hint.startswith("did you mean") else "it is not one of this endpoint's"
            raise APIError(400, f"parameter {name[:60]!r} is unknown: {hint}", param=name[:60])
        if name in NEUTRAL and value not in NEUTRAL[name]:
            raise APIError(400, f"parameter {name} is not supported, got {value!r:.40}", param=name)


def _refused(error: ValidationError) -> APIError:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"][:1])
    got = "" if first["type"] == "missing" else f", got {first['input']!r:.40}"
    return APIError(400, f"{name}: {first['msg'][:200]}{got}", param=name)
