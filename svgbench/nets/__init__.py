"""Pure tensors: the networks, losses, paths and samplers; no path, rank or YAML is seen here."""
