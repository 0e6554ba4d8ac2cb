"""Scores of images and latents, each with its protocol, count and interval."""
