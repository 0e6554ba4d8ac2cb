"""The machine: files, processes, training loop, checkpoints and images."""
