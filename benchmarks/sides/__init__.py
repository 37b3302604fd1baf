"""One search, run by divfeat and by its peers: `python -m benchmarks.sides.NAME FOLDER TRIALS EPOCHS`, a fresh process each.

Every side trains the same experiments with the same function, two at a time, one thread each, and hears of every epoch.
"""
