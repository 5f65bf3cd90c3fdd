"""What stands before every request: who asks, by which name, and how errors are told."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from typing import Any

from fastalign.line.serve.settings import Settings
from fastalign.line.serve.static import PAGE

# What anybody may have: whether it runs, and the page, which holds nothing.
OPEN = frozenset({"/health", *PAGE})
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)


class Guard:
    """An application of ASGI around another one.

    Requests that name another host than this server are refused, as a page elsewhere sends them
    that has taken over a name (DNS rebinding); so are requests of pages elsewhere. Without the
    token nothing is told. Answers are not kept, and load nothing from anywhere.

    Args:
        app: the other one.
        settings: who may ask.
        refused: told the status of every error.
    """

    def __init__(self, app: Any, settings: Settings, refused: Callable[[int], None]) -> None:
        self._app, self._settings, self._refused = app, settings, refused

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                if message["status"] >= 400:
                    self._refused(message["status"])
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        problem = self._problem(scope)
        if problem is None:
            await self._app(scope, receive, guarded)
            return
        status, words = problem
        body = json.dumps({"error": words}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            # What was sent is not read.
            (b"connection", b"close"),
        ]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await guarded(start)
        await guarded({"type": "http.response.body", "body": body})

    def _problem(self, scope: Any) -> tuple[int, str] | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        allowed = self._settings.hosts
        if allowed is not None and _host(headers.get(b"host", b"")) not in allowed:
            return 421, "this server does not go by this name (the header Host)"
        if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            return 403, "pages of other servers may not ask"
        token = self._settings.token
        if token is None or scope["path"] in OPEN:
            return None
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        # In a time that tells nothing of how much of it is right.
        right = hmac.compare_digest(given.strip(), token.encode())
        if kind.lower() != b"bearer" or not right:
            return 401, "the token is missing or wrong (the header Authorization: Bearer ...)"
        return None


def _host(header: bytes) -> str:
    """A Host header without its port, in lower case."""
    text = header.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0]
