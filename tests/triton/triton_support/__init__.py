"""What the tests of the Triton kernels share: compiling ahead of time, and a check of addresses."""
