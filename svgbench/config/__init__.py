"""What a run is, as data: no torch, no files of weights, no devices."""
