"""The command line: the only layer that prints, exits or knows Typer. Imports no heavy library by itself."""
