"""One of several processes that do the work of distributed_work.py, for as long as asked.

Started once for all tests: importing torch takes longer than the tests do. Requests come in on
standard input and results go out on standard output, as pickles.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from datetime import timedelta

import distributed_work as work
import torch
import torch.distributed as dist

from fastalign.distributed import World

rank, size, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
requests, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
torch.set_num_threads(1)
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
        break
    answer = None
    if rank < processes:
        world = World(rank, processes, groups[processes])
        try:
            answer = (True, getattr(work, name)(world, **options))
        except Exception:
            answer = (False, f"process {rank}: {traceback.format_exc()}")
    pickle.dump(answer, results)
    results.flush()
