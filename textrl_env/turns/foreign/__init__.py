"""Turn environments of other packages: TextArena's games and GEM's environments. Neither package is imported here."""
