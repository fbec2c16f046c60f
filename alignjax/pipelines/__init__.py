"""Pipelines: whole experiments, from data to the report, and the parts that the files of configs/ share."""
