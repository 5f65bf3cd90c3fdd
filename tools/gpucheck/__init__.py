"""The parts of ``tools/gpu_check.py``: what is checked, in processes of their own, and the report.

inplace    the checkout stands in for an installed fastalign
records    lines of JSON that a check leaves behind, whatever happens to it later
jobs       processes side by side under time limits
steps      what is run, in which order, with how much time
suite      pytest plugin and summary of the tests of the ops
shapes     larger random inputs against float64, and CUDA C++ against Triton
behaviour  compilation, CUDA graphs, streams, determinism, offsets above 2^31
small_run  a few small calls of every op, for compute-sanitizer
sanitizer  compute-sanitizer's reports
report     JSON, Markdown and the lines on the terminal
"""
