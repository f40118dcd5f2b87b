"""What a client is told when a request fails: OpenAI's error body, which every client of that protocol reads."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that gets no answer.

    Attributes:
        status: HTTP status.
        message: What was found, what was expected, and what mends it.
        kind: OpenAI's `type`: whose fault it is.
        param: The field of the request that it is about, as `messages[0].content`, or None.
        code: A stable name for programs, or None.
        retry_after: Seconds after which another try makes sense, or None.
    """

    def __init__(  # noqa: PLR0913 - the fields of OpenAI's error, by name
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Makes an error; see the attributes."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """Returns the JSON body of the reply."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def refused(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Makes the error of a request that can't be served as it is: status 400."""
    return ApiError(400, message, param=param, code=code)


def backend_failed(message: str) -> ApiError:
    """Makes the error of a model endpoint that failed: status 502."""
    return ApiError(502, message, kind="server_error", code="backend_error")


def too_slow(seconds: float) -> ApiError:
    """Makes the error of a request that took longer than it may: status 504."""
    message = f"the request was not done in {seconds:g} s; ask for fewer tokens, or start serve with a larger --timeout"
    return ApiError(504, message, kind="server_error", code="timeout")
