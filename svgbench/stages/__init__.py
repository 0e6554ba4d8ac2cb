"""The stages of a run: ``graph`` is the table; each worker is imported when it runs."""
