"""A study as a Python object: `divfeat.study` runs one or takes it up again, `divfeat.open_study` opens one on disk."""
