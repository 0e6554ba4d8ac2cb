"""The audit of a run or a file: known traps, each answered pass, fail or cannot tell."""
