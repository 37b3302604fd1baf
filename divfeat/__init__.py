"""divfeat: studies of feature diversity. See README.md and docs/."""

__version__ = "0.1.0"
