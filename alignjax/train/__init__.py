"""Training: the state, the two jitted functions of an algorithm, the loop around them, and what a run keeps on disk."""
