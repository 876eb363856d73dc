"""Errors of the server in OpenAI's format."""

from typing import Any

from promptstage.utilities.errors import printable


class APIError(Exception):
    """Error that a request is answered with."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        """
        Args:
            status: HTTP status.
            message: one line.
            type, code, param: as in OpenAI's error objects.
        """
        super().__init__(message)
        self.status, self.type, self.code, self.param = status, type, code, param

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        param = None if self.param is None else printable(self.param)
        message = printable(str(self))
        return {"error": {"message": message, "type": self.type, "param": param, "code": self.code}}


def server_error(message: str) -> APIError:
    """Return an error of the server itself."""
    return APIError(500, message, type="server_error")
