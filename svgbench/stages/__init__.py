"""The stages of a run: ``graph`` lists them; each stage's function is imported when it runs."""
