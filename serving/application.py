"""FastAPI application with OpenAI's endpoints for models, completions and chats."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from promptstage.serving.answers import Answer, generation_of
from promptstage.serving.bodies import read_body
from promptstage.serving.conversations import parsed
from promptstage.serving.engine import Engine, Generation
from promptstage.serving.errors import APIError, server_error
from promptstage.serving.models import ServedModel
from promptstage.serving.requests import ChatRequest, CompletionRequest, Sampled, parse
from promptstage.serving.waiting import Client, EventStream, parts_of
from promptstage.utilities.errors import UserError, nearest
from promptstage.utilities.processes import note

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
        places: number of generations of a model that run at a time.
        queue: number of generations of a model that wait besides.
        max_tokens: new tokens that a request may ask for; None: as many as the context has room for.
        body: bytes of a request's body.
    """

    places: int = 64
    queue: int = 256
    max_tokens: int | None = None
    body: int = 1 << 20


class Endpoints:
    """Handlers of requests."""

    def __init__(
        self, models: Mapping[str, ServedModel], limits: Limits, api_key: str | None, local: bool
    ) -> None:
        self.models, self.limits, self._local = models, limits, local
        self._key = None if api_key is None else f"Bearer {api_key}".encode()
        self._started = int(time.time())
        self._tokenizing = asyncio.Lock()
        self.engine: Engine | None = None

    async def list_models(self, request: Request) -> Response:
        """``GET /v1/models``."""
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self.models]})

    async def show_model(self, request: Request) -> Response:
        """``GET /v1/models/NAME``."""
        return JSONResponse(self._model(self._find(request.path_params["name"]).name))

    async def complete(self, request: Request) -> Response:
        """``POST /v1/completions``: prompts as they are, without a template."""
        body = parse(CompletionRequest, await read_body(request, self.limits.body))
        model = self._find(body.model)
        if model.corrects:
            raise APIError(400, f"model {model.name} answers questions: use /v1/chat/completions")
        self._check(body, len(body.prompts), body.max_tokens)
        generations = []
        for number, prompt in enumerate(body.prompts):
            if isinstance(prompt, str):
                tokens = await self._encoded(partial(model.texts.encode, prompt))
            else:
                tokens = model.texts.after_prompt(prompt)
            most, allowed = body.max_tokens, self.limits.max_tokens
            generations.append(generation_of(model, body, tokens, most, allowed, number=number))
        return await self._answer(request, body, model, generations, chat=False)

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``: a conversation in the format of the prompt's training data."""
        body = parse(ChatRequest, await read_body(request, self.limits.body))
        model, most = self._find(body.model), body.most_tokens
        self._check(body, 1, most)
        question = None
        if model.corrects:
            system, turns, question = _parsed(body)
            if system is not None or turns:
                raise APIError(400, f"model {model.name} answers single questions", param="messages")
        tokens = await self._encoded(partial(model.conversations.encode, body.messages))
        generation = generation_of(model, body, tokens, most, self.limits.max_tokens, question)
        return await self._answer(request, body, model, [generation], chat=True)

    def check_access(self, request: Request) -> None:
        """
        Raises:
            APIError: for a wrong key, a host name that is not local, or a body that is not declared as JSON.
        """
        headers = request.headers
        host = headers.get("host", "").lower()
        name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        if self._local and name not in LOCAL_NAMES:
            # Another site's page in a browser on this machine must not reach the server (DNS rebinding).
            raise APIError(400, "the Host header must name this machine: localhost or 127.0.0.1")
        given = headers.get("authorization", "").encode("utf-8", "surrogateescape")
        if self._key is not None and not hmac.compare_digest(given, self._key):
            raise APIError(401, "the API key is missing or wrong", code="invalid_api_key")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json":
            raise APIError(400, "the Content-Type must be application/json")

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "promptstage"}

    def _find(self, name: str) -> ServedModel:
        if name not in self.models:
            message = f"model {name[:60]!r} does not exist: {nearest(name, self.models)}"
            raise APIError(404, message, code="model_not_found", param="model")
        return self.models[name]

    def _check(self, body: Sampled, prompts: int, most: int | None) -> None:
        """
        Raises:
            APIError: if a request asks for more generations or tokens than are allowed.
        """
        limits = self.limits
        for name, value, limit in (
            ("n", body.n, limits.places),
            ("n times the number of prompts", body.n * prompts, limits.places + limits.queue),
            ("max_tokens", most, limits.max_tokens),
        ):
            if value is not None and limit is not None and value > limit:
                raise APIError(400, f"{name} must be <= {limit}, got {value}", param=name.partition(" ")[0])

    async def _encoded(self, encode: Callable[[], list[int]]) -> list[int]:
        """Tokenize in a thread, one text at a time, so that long ones hold up no other request."""
        async with self._tokenizing:
            try:
                return await asyncio.to_thread(encode)
            except UserError as error:
                raise APIError(400, str(error)) from error

    async def _answer(
        self,
        request: Request,
        body: Sampled,
        model: ServedModel,
        generations: list[Generation],
        chat: bool,
    ) -> Response:
        assert self.engine is not None
        rows = sum(len(generation.job.rows) for generation in generations)
        if model.pending + rows > self.limits.places + self.limits.queue:
            message = f"model {model.name} has {model.pending} generations to run: try again later"
            raise APIError(429, message, type="rate_limit_error", code="queue_full")
        answer = Answer(model, chat)
        client = Client(request, self.engine, model, generations)
        if body.stream:
            return EventStream(client, parts_of(client, answer, body.includes_usage))
        with client:
            await client.wait_for_all()
            return JSONResponse(answer.whole(generations))


def _parsed(body: ChatRequest) -> tuple[str | None, list[Any], str]:
    try:
        return parsed(body.messages)
    except UserError as error:
        raise APIError(400, str(error), param="messages") from error


def create_application(
    models: Mapping[str, ServedModel], limits: Limits, api_key: str | None, local: bool
) -> FastAPI:
    """Create the application; its engine runs from startup to shutdown.

    Args:
        models: models by name.
        api_key: key that requests must have; None: none.
        local: the server is bound to this machine alone.
    """
    endpoints = Endpoints(models, limits, api_key, local)

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        endpoints.engine = Engine(models.values(), asyncio.get_running_loop())
        try:
            yield
        finally:
            await asyncio.to_thread(endpoints.engine.stop)

    application = FastAPI(lifespan=lifespan, openapi_url=None)
    for method, path, handler in (
        ("GET", "/v1/models", endpoints.list_models),
        ("GET", "/v1/models/{name:path}", endpoints.show_model),
        ("POST", "/v1/completions", endpoints.complete),
        ("POST", "/v1/chat/completions", endpoints.chat),
    ):
        application.add_route(path, _guarded(endpoints, handler), methods=[method])

    async def unknown(request: Request, error: Any) -> Response:
        status = getattr(error, "status_code", 404)
        message = "there is no such endpoint" if status == 404 else "this method is not allowed here"
        return _refusal(APIError(status, message))

    application.add_exception_handler(404, unknown)
    application.add_exception_handler(405, unknown)
    return application


def _guarded(endpoints: Endpoints, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """Check access before a handler, and answer with OpenAI's error object if it fails."""

    async def call(request: Request) -> Response:
        try:
            endpoints.check_access(request)
            response: Response = await handler(request)
            return response
        except APIError as error:
            return _refusal(error)
        except Exception as error:
            failure = server_error(f"the request has failed: {type(error).__name__}")
            note(f"{failure}: {error!s:.200}")
            return _refusal(failure)

    return call


def _refusal(error: APIError) -> JSONResponse:
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error.body(), error.status, headers)
