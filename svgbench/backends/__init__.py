"""Encoders and codecs of other libraries behind one surface."""
