"""Datasets: where rows come from, how files are parsed and how rows are written as TFDS records."""
