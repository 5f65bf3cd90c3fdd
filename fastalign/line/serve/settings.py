"""What a server allows, and who may ask it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from fastalign.errors import ConfigError
from fastalign.line.scorer import AT_ONCE
from fastalign.numeric import real_number, whole_number

_SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Settings:
    """Limits of a server.

    Attributes:
        host, port: where it listens; port 0: any that is free.
        token: what whoever asks has to send; None: nothing, which loopback alone allows.
        most_bytes: of a photograph's file.
        most_pixels: of a photograph.
        most_waiting: photographs that wait or are judged at once; further ones are turned away.
        at_once: of those that wait, scored together at most, where that changes no score.
        seconds: that sending a photograph may take, and the answer after that.
        kept: photographs that the page shows.
        names: of this machine, beside the host, by which browsers may ask for it.

    Raises:
        ConfigError: numbers out of range, a token that is too short, or none where one is needed.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    most_bytes: int = 32_000_000
    most_pixels: int = 64_000_000
    most_waiting: int = 16
    at_once: int = AT_ONCE
    seconds: float = 30.0
    kept: int = 100
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        whole_number("port", self.port, 0, 65535)
        whole_number("most bytes", self.most_bytes, 1)
        whole_number("most pixels", self.most_pixels, 1)
        whole_number("most waiting", self.most_waiting, 1, 1000)
        whole_number("kept", self.kept, 1, 1000)
        real_number("seconds", self.seconds, 0.1, 3600)
        if self.token is not None and not (
            len(self.token) >= _SHORTEST_TOKEN and self.token.isascii() and self.token.isprintable()
        ):
            raise ConfigError(
                f"the token has to be {_SHORTEST_TOKEN} characters or more, of ASCII; "
                "python -c 'import secrets; print(secrets.token_urlsafe())' makes one."
            )
        if self.token is None and not self.is_loopback:
            raise ConfigError(
                f"--host {self.host}: others than this machine can reach it; give a token in a "
                "file with --token-file, or leave --host out."
            )

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone can ask."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> frozenset[str] | None:
        """Names that a request may ask for; None: any, since it has to show the token."""
        if self.token is not None and not self.is_loopback:
            return None
        return frozenset({"localhost", "127.0.0.1", "[::1]", self.host.lower(), *self.names})
