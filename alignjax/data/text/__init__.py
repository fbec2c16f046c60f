"""Text: tokenizers, chat templates, edits between two texts, corruptions of one."""
