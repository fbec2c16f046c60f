"""The report of a tournament: the schema of results.json, figures, HTML, Markdown and the table in the terminal."""
