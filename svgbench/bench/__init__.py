"""Measures this machine for this program: the pieces of a run at a preset's size, with random weights and images."""
