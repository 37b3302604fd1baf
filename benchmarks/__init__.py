"""Benchmarks: each measures divfeat beside a peer in the same run, and writes its rows to results/benchmarks.

`python -m benchmarks` lists them, `python -m benchmarks NAME` runs one, `python -m benchmarks all` every one.
"""
