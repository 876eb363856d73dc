"""Bodies of HTTP requests, read up to a limit."""

from fastapi import Request
from starlette.requests import ClientDisconnect

from promptstage.serving.errors import APIError


async def read_body(request: Request, limit: int) -> bytes:
    """Read a body.

    Raises:
        APIError: with status 413, if it has more than ``limit`` bytes.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise _too_large(limit)
    except ClientDisconnect as error:
        raise APIError(400, "the body is not complete") from error
    return bytes(body)


def _too_large(limit: int) -> APIError:
    return APIError(413, f"the body must have at most {limit} bytes", code="request_too_large")
