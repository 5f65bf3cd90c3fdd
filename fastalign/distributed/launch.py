"""The process group of a command that torchrun has started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

# Its functions take the process group that is there when it is imported for a default, and keep it.
# timm imports it; were that after the start of the group, gloo's threads would outlive
# destroy_process_group, and one of them might abort the process at its end.
import torch.distributed.nn.functional  # noqa: F401
from torch.distributed.rendezvous import rendezvous

from fastalign.distributed.world import World, current
from fastalign.errors import ConfigError

TIMEOUT = 600.0


def under_torchrun() -> bool:
    """Whether a launcher has told this process its place among others."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ)


def restarted() -> bool:
    """Whether torchrun has started these processes again after one of them failed."""
    return _restarts() > 0


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def own_device(name: str) -> str:
    """The device of this process: ``cuda`` is the one of its local rank.

    Raises:
        ConfigError: one GPU is named for several processes of a machine.
    """
    if not under_torchrun() or not name.startswith("cuda"):
        return name
    if name == "cuda":
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"--device {name} with several processes on this machine: each needs a GPU of its own; "
            "use --device cuda, and CUDA_VISIBLE_DEVICES to choose which."
        )
    return name


@contextmanager
def launched(device: str = "cpu", timeout: float = TIMEOUT) -> Iterator[World]:
    """The processes that torchrun has started, for a ``with`` block; without it this one alone.

    A process group that is already there is used and left alone.

    Args:
        device: ``cpu``, or a GPU: gloo carries tensors on the CPU, NCCL those on GPUs.
        timeout: seconds that a process waits for the others in one exchange; longer than the
            longest stage that one process does for all, the search for poses.

    Raises:
        ConfigError: a timeout that is not above 0.
    """
    if not timeout > 0:
        raise ConfigError(f"--timeout {timeout:g}: give a number of seconds above 0.")
    if not under_torchrun() or dist.is_initialized():
        yield current()
        return
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(own_device(device))
    wait = timedelta(seconds=timeout)
    store, rank, size = next(rendezvous("env://", timeout=wait))
    # torchrun's store outlives a restart, and with it the addresses of processes that have gone.
    store = dist.PrefixStore(f"restart {_restarts()}", store)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=wait,
    )
    failed = True
    try:
        yield current()
        failed = False
    finally:
        # gloo's threads abort a process that ends with them, whatever its exit code was to be; NCCL
        # would wait for processes that no longer take part.
        if not (failed and cuda):
            dist.destroy_process_group()
