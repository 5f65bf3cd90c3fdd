"""Triton kernels, one module per op, installed as ``fastalign.kernels``.

Nothing is imported here: a module is loaded when its kernel is first chosen, so that machines
without Triton never touch it.

Opaque ops, not ``torch.library.triton_op``. Each module is called inside a custom op that has its
own fake, gradient and autocast rule, and the same op serves CUDA C++, Triton and the reference:
the backend is chosen at run time from the tensors, which a traced ``triton_op`` would settle at
compile time. Inductor could look into a ``triton_op``, but has nothing to gain there: these kernels
reduce over images and channels and write each result once, so no neighbouring operation can be
fused into them, while float arguments would turn into float64 and grids and strides would have to
be symbolic. An eager call costs the host the same both ways, tracing with symbolic sizes several
times more with ``triton_op`` (``benchmarks/triton_op.py``).
``torch.compile(fullgraph=True)`` and export work with both.

Launches differ by layout, so the strides are arguments and the axis of stride 1 is a constant
(``common.addressing``); sizes come from a fixed rule in each ``*_plan`` module and not from
autotuning, so the same call always gives the same bits. float64 runs on the reference. In Triton's
interpreter bfloat16 is cast to float32 right after a load, as on a GPU; its stores truncate where a
GPU rounds, one unit in the last place at most.
"""
