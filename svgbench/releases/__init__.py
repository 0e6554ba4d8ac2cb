"""Official releases: what the papers' authors published, opened as our own networks. Key maps only; the networks live in ``nets``."""
