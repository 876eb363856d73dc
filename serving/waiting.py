"""Clients that wait for generations, which are cancelled when they leave."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from promptstage.serving.answers import Answer, texts_of
from promptstage.serving.corrected import QuestionJob
from promptstage.serving.engine import Engine, Generation
from promptstage.serving.errors import APIError
from promptstage.serving.models import ServedModel
from promptstage.serving.output import Stream


class Client:
    """Client of a request; a context in which its generations run.

    At its end, generations that are not finished are cancelled.
    """

    def __init__(
        self, request: Request, engine: Engine, model: ServedModel, generations: Sequence[Generation]
    ) -> None:
        self._request, self._engine, self._model = request, engine, model
        self.generations = generations
        self._left: asyncio.Task[None] | None = None
        self._rows = sum(len(generation.job.rows) for generation in generations)

    def __enter__(self) -> "Client":
        self._model.pending += self._rows
        self._left = asyncio.create_task(self._leaves())
        for generation in self.generations:
            self._engine.submit(generation)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._left is not None
        self._left.cancel()
        self._model.pending -= self._rows
        for generation in self.generations:
            if not generation.done:
                self._engine.cancel(generation)

    async def wait_for_all(self) -> None:
        """Wait until all generations are finished.

        Raises:
            APIError: if one has failed, or the client has left.
        """
        for generation in self.generations:
            while not generation.done:
                await self.wait_for(generation)

    async def wait_for(self, generation: Generation) -> None:
        """Wait until a generation has changed.

        Raises:
            APIError: if it has failed, or the client has left.
        """
        assert self._left is not None
        change = asyncio.create_task(generation.changed.wait())
        try:
            await asyncio.wait({change, self._left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
        if self._left.done():
            raise APIError(499, "the client has left")
        generation.changed.clear()
        if generation.error is not None:
            raise generation.error

    async def _leaves(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass


class EventStream(StreamingResponse):
    """Server-sent events, during which the client's generations run."""

    media_type = "text/event-stream"

    def __init__(self, client: Client, parts: AsyncIterator[str]) -> None:
        super().__init__(parts, headers={"Cache-Control": "no-store"})
        self._client = client

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with self._client:
            await super().__call__(scope, receive, send)


async def parts_of(client: Client, answer: Answer, usage: bool) -> AsyncIterator[str]:
    """Yield the server-sent events of a stream, the prompts of a request one after the other.

    Args:
        usage: end with the numbers of tokens.
    """
    first = 0
    try:
        for generation in client.generations:
            async for part in _parts(client, answer, generation, first):
                yield _event(part)
            first += len(generation.job.rows)
        if usage:
            yield _event(answer.usage(client.generations))
        yield "data: [DONE]\n\n"
    except APIError as error:
        yield _event(error.body())


async def _parts(
    client: Client, answer: Answer, generation: Generation, first: int
) -> AsyncIterator[dict[str, Any]]:
    """Yield the parts of one generation.

    Args:
        first: index of its first sample among the request's choices.
    """
    tokenizer = generation.model.texts.tokenizer
    streams = [Stream(tokenizer, row) for row in generation.job.rows]
    for index in range(len(streams)):
        yield answer.part(first + index, "", first=True)
    while not generation.done:
        await client.wait_for(generation)
        if not generation.done:
            for index, stream in enumerate(streams):
                if text := stream.next():
                    yield answer.part(first + index, text)
    if isinstance(generation.job, QuestionJob):
        ends = texts_of(generation)
    else:
        ends = [stream.last() for stream in streams]
    for index, (text, reason) in enumerate(ends):
        if text:
            yield answer.part(first + index, text)
        yield answer.part(first + index, "", reason)


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
