"""What the tests of the CUDA kernels on the CPU share: builds, the torch side, altered kernels."""
