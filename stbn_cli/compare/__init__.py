"""Two videos against each other, and what the difference between them says. Knows nothing of the command line."""
