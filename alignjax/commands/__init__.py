"""What each subcommand of `alignjax` does. Imported by `alignjax.cli` only when the command is run."""
