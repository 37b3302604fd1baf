"""How far the verdict can be trusted: the same method against itself, and the verdict's functions over measured noise."""
