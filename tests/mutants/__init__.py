"""Mutants: single wrong edits of the package, each of which named tests of the default tier must notice."""
