"""What a client is told when a request fails: OpenAI's error object, whatever went wrong."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from binderclip.errors import (
    BinderclipError,
    IndexStateError,
    InputError,
    MediaError,
    NeedsExtraError,
    NeedsPartError,
    UnknownNameError,
)

__all__ = ["ApiError", "BusyError", "as_api_error", "failure", "named"]


class ApiError(Exception):
    """A request that fails with a status and a reason.

    Args:
        status: HTTP status.
        message: one line that says what to do.
        code: a word for programs.
        param: the field of the request that is to blame.
        retry_after: seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after = status, message, code, param, retry_after

    def as_json(self) -> dict[str, Any]:
        """The `error` object of the answer."""
        kind = "server_error" if self.status >= 500 else _KINDS.get(self.status, "invalid_request_error")
        return {"message": self.message, "type": kind, "param": self.param, "code": self.code}


class BusyError(ApiError):
    """The queue is full: 429, to be tried again shortly."""

    def __init__(self, what: str) -> None:
        super().__init__(429, f"too many {what} are waiting: try again in a second", code="busy", retry_after=1)


_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}

_STATUS: tuple[tuple[type[BaseException], int, str], ...] = (
    (UnknownNameError, 404, "not_found"),
    (NeedsExtraError, 501, "not_installed"),
    (NeedsPartError, 400, "not_supported"),
    (IndexStateError, 503, "index_unavailable"),
    (InputError, 400, "invalid_input"),
    (BinderclipError, 400, "invalid_input"),
    (TimeoutError, 503, "timeout"),
)


def as_api_error(error: BaseException, *, param: str | None = None) -> ApiError:
    """What a client is told of an error; what nobody foresaw is told without its text, which may hold anything."""
    if isinstance(error, ApiError):
        return (
            error if error.param or not param else ApiError(error.status, error.message, code=error.code, param=param)
        )
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            return ApiError(status, str(error) or "the server took too long", code=code, param=param)
    return ApiError(500, "the server failed; its log names the reason under the request's id", code="internal_error")


def named(error: Exception, param: str) -> Exception:
    """The error as a client is told it, with the input that is to blame; raised at once when the server is to blame."""
    told = as_api_error(error, param=param)
    if told.status < 500 and isinstance(error, MediaError):
        told.message = f"{param} {told.message}"
        told.args = (told.message,)
    if told.status >= 500:
        raise told from error
    return told


def failure(error: ApiError) -> JSONResponse:
    """The answer to a request that failed."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": error.as_json()}, status_code=error.status, headers=headers)
