"""Figures and the curves and sheets of the page."""
