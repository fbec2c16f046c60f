"""Sources: batches by number, made from the rows of a dataset or from recorded batches."""
