"""Chaos: a real study on several real nodes, killed at random, which must end as if nobody had touched it."""
