"""Ray: placing experiments on workers, sharing data between them, spanning one experiment over several."""
