"""Sending a line of the journal: to a command, or to a web address."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastalign.errors import ConfigError
from fastalign.numeric import real_number, whole_number

_TAIL = 300
_PLACES = re.compile(r"\{(path|verdict|score|text)\}")

Send = Callable[[dict[str, Any]], None]


class NotSent(Exception):
    """A message that did not arrive; the text says why."""


@dataclass(frozen=True)
class Messages:
    """Who is told, and how long that may take.

    Attributes:
        hook: a command and its arguments; ``{path}``, ``{verdict}``, ``{score}`` and ``{text}``
            (the reason) in them stand for those of the photograph, whose line it gets on standard
            input; of a drift for the photograph with which it was certain, ``drift``, nothing, and
            the statement. No shell reads it.
        webhook: an address to which the line is sent (POST, JSON).
        timeout: seconds for one attempt.
        retries: further attempts after one that failed, with pauses of 1, 2, 4, ... seconds.

    Raises:
        ConfigError: a command that is not there, another kind of address, numbers out of range.
    """

    hook: Sequence[str] = ()
    webhook: str | None = None
    timeout: float = 10.0
    retries: int = 3
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)

    def __post_init__(self) -> None:
        real_number("timeout", self.timeout, 0.1, 3600)
        whole_number("retries", self.retries, 0, 20)
        if self.hook and shutil.which(self.hook[0]) is None:
            raise ConfigError(
                f"--hook: {self.hook[0]}: no such command, or it may not be executed; give a path "
                "or a name that the system finds."
            )
        if self.webhook is not None:
            address = urllib.parse.urlsplit(self.webhook)
            if address.scheme not in ("http", "https") or not address.hostname:
                raise ConfigError(
                    f"--webhook {self.webhook!r}: give an address that begins with http:// or "
                    "https:// and names a host."
                )

    @property
    def ways(self) -> list[tuple[str, Send]]:
        """What is done with a line, by name."""
        ways: list[tuple[str, Send]] = []
        if self.hook:
            ways.append(("hook", self._run))
        if self.webhook is not None:
            ways.append(("webhook", self._post))
        return ways

    def _run(self, line: dict[str, Any]) -> None:
        # A path that begins with a hyphen would be an option: names are given as they stand in
        # the folder, behind it.
        values = {
            "path": line["file"],
            "verdict": line.get("verdict", line["event"]),
            "score": "" if line.get("score") is None else str(line["score"]),
            "text": line.get("text", line.get("reason")),
        }
        command = [_filled(word, values) for word in self.hook]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise NotSent(f"cannot be run: {error}") from error
        try:
            out, _ = process.communicate(json.dumps(line).encode(), timeout=self.timeout)
        except subprocess.TimeoutExpired:
            _end(process)
            raise NotSent(f"still ran after {self.timeout:g} s and was ended") from None
        if process.returncode:
            tail = out[-_TAIL:].decode("utf-8", "replace").strip()
            raise NotSent(f"ended with {process.returncode}{': ' if tail else ''}{tail}")

    def _post(self, line: dict[str, Any]) -> None:
        assert self.webhook is not None
        request = urllib.request.Request(
            self.webhook,
            data=json.dumps(line).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "fastalign"},
            method="POST",
        )
        # Neither files nor other protocols, and no other host than the one that was given.
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            opener.add_handler(handler)
        try:
            with opener.open(request, timeout=self.timeout) as answer:
                answer.read(_TAIL)
        except (OSError, ValueError, urllib.error.URLError) as error:
            raise NotSent(f"{type(error).__name__}: {error}") from error


def split_command(text: str) -> list[str]:
    """A command as it is typed, in words; quotes hold words together.

    Raises:
        ConfigError: there is none, or a quote is open.
    """
    try:
        words = shlex.split(text, posix=os.name == "posix")
    except ValueError as error:
        raise ConfigError(f"--hook {text!r}: {error}; close the quotation.") from error
    if not words:
        raise ConfigError("--hook: no command; give one with its arguments, in quotes.")
    return words


def _filled(word: str, values: dict[str, Any]) -> str:
    # All at once: what is filled in may look like a place itself.
    return _PLACES.sub(lambda place: str(values[place[1]] or ""), word)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and what it has started."""
    try:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except ProcessLookupError:
        pass
    process.communicate()
