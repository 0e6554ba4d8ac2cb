"""Encoders and codecs of other libraries with one interface."""
