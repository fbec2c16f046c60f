"""Log-probabilities of frozen roles, scored once and kept on disk."""
