"""Estimates of what a plan needs and costs, before it runs."""
