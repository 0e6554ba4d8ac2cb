"""How good are the images and the latents: every number with its protocol, its count and its interval."""
