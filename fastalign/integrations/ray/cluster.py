"""Ray for the time of a run."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastalign.errors import ConfigError, DataWarning, first_line

# Only numbers of parts travel through Ray's object store; its least size is 75 MiB.
_OBJECT_STORE = 80 * 2**20
_PATIENCE = 10.0


@dataclass(frozen=True)
class Pool:
    """The workers: how many, CPU threads and GPUs of each, their torch device, and the address of a
    Ray cluster; None: the one that ``RAY_ADDRESS`` names, or this machine."""

    workers: int
    threads: int
    device: str
    gpus: float
    address: str | None


@contextlib.contextmanager
def running(pool: Pool) -> Iterator[None]:
    """Ray for the time of a run: the caller's, a cluster's, or one of our own on this machine."""
    import ray

    address = pool.address or os.environ.get("RAY_ADDRESS")
    own = not ray.is_initialized()
    if own and address:
        try:
            _knock(address)
            ray.init(address=address, logging_level=logging.WARNING)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"no Ray cluster answers at {address!r} ({first_line(error)}); start one with "
                "`ray start --head`, or leave the address out to use this machine."
            ) from error
    elif own:
        # A run on one machine has nobody to report to, unless its user says so.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=pool.workers * pool.threads,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE,
            logging_level=logging.WARNING,
        )
    try:
        _warn_of_shortage(pool)
        with _quiet():
            yield
    finally:
        if own:
            ray.shutdown()


def _knock(address: str) -> None:
    """Try the port: Ray itself tries for a minute and then ends the process.

    Raises:
        OSError: nobody listens there.
    """
    place = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+)\]?:(\d+)", address)
    if place is not None:
        socket.create_connection((place[1], int(place[2])), timeout=_PATIENCE).close()


def _warn_of_shortage(pool: Pool) -> None:
    """Ray waits in silence for what no machine has; a cluster that grows may yet have it."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = {"CPU": float(pool.threads), "GPU": pool.gpus}
    for name, amount in wanted.items():
        most = max((machine.get(name, 0.0) for machine in machines), default=0.0)
        if amount > most:
            warnings.warn(
                f"a worker asks for {amount:g} {name} and no machine of the Ray cluster has more "
                f"than {most:g}; the run waits until one joins that has.",
                DataWarning,
                stacklevel=2,
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Ray Data's own bars and plans: progress is ours to show."""
    from ray.data import DataContext

    context: Any = DataContext.get_current()
    logger = logging.getLogger("ray.data")
    bars, level = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)
