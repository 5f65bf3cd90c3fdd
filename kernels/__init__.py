"""Triton kernels, one module per op, installed as ``fastalign.kernels``.

Nothing is imported here: a module is loaded when its kernel is first chosen, so that machines
without Triton never touch it.
"""
