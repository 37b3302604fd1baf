"""Trees of classes: what they are made of, what follows from them, and where they are read from."""
