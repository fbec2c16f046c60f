"""The TFDS builder that every dataset of this project is written with."""
