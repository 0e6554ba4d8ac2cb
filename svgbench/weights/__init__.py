"""Weight files: formats, names of tensors, and the selection of weights in a checkpoint."""
