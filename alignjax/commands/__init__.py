"""What each subcommand of `alignjax` does. Imported by `cli.py` only when the command is run."""
