"""What the CUDA kernels become: compiled for every architecture, without a GPU."""
