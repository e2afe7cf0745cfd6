"""The tools in a terminal: the commands of `datalog`, and the interactive shell. Over the api; no logic of the database."""
