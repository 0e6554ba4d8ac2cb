"""The lab: the store of finished artifacts, the plan of a set of runs, and its execution."""
