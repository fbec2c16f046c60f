"""Mutants: single wrong edits of the package, each of which named tests of the default tier must notice.

A new one is a `Mutant` in the tuple of the `*_changes.py` that its subject names, else in that of `changes.py`, which
lists them all."""
