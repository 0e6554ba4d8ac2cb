"""Turns score records into tables; reads only files that runs wrote."""
