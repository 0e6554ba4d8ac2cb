"""Weight files: formats, names of tensors, and which weights a file holds."""
