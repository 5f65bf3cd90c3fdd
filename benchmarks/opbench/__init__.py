"""Benchmarks of the ops: cases and baselines in one list, measured alike on the CPU and on CUDA."""
