"""Several processes that do the work of distributed_work.py, for as long as asked.

Started once for all tests, and as copies of one that has imported everything: importing takes
longer than the tests do. Requests come in and results go out on a pair of pipes for each, as
pickles.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
import traceback
from datetime import timedelta
from typing import BinaryIO

import distributed_work as work
import timm  # noqa: F401  models import it when they are made
import torch
import torch.distributed as dist

from fastalign.distributed import World


def serve(rank: int, size: int, store: str, requests: BinaryIO, results: BinaryIO) -> None:
    """Do the work of process ``rank`` until nobody asks any more."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    groups = {number: dist.new_group(list(range(number))) for number in range(2, size + 1)}
    while True:
        try:
            processes, name, options = pickle.load(requests)
        except EOFError:
            return
        answer = None
        if rank < processes:
            world = World(rank, processes, groups[processes])
            try:
                answer = (True, getattr(work, name)(world, **options))
            except Exception:
                answer = (False, f"process {rank}: {traceback.format_exc()}")
        pickle.dump(answer, results)
        results.flush()


def main(store: str, *descriptors: str) -> None:
    """One process for each ``requests,results``, two numbers of open files."""
    torch.set_num_threads(1)
    pipes = [tuple(map(int, pair.split(","))) for pair in descriptors]
    # What was imported is shared as long as nobody writes to it, as a search for garbage does.
    gc.freeze()
    children = []
    for rank, own in enumerate(pipes):
        child = os.fork()
        if child == 0:
            # A pipe ends when nobody holds it: not the other processes either.
            for number in {number for pair in pipes for number in pair} - set(own):
                os.close(number)
            with open(own[0], "rb") as requests, open(own[1], "wb") as results:
                serve(rank, len(pipes), store, requests, results)
            # Clearing away all that was imported takes as long as importing it.
            os._exit(0)
        children.append(child)
    for number in (number for pair in pipes for number in pair):
        os.close(number)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
