"""The configuration of a run as data: no torch, no weights, no devices."""
