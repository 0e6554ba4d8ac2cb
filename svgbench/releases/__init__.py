"""Official checkpoints of the papers' authors, opened as svgbench's networks. Maps of tensor names only; the networks are in ``nets``."""
