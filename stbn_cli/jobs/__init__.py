"""What the commands do, without a command line: typed options in, results out. Knows neither Typer nor printing."""
