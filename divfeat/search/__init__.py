"""Proposals, queue, protocol and ledger: what a study does between the command and the verdict."""
