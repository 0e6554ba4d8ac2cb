"""Networks, losses, probability paths and samplers on tensors only: no file paths, ranks or YAML."""
