"""The machine: devices, ranks, files, signals, and the training loop."""
