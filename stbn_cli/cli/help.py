"""The pages that --help shows: plain text that fits the terminal, the options most people need first.

Written here and not by rich, which takes as long to import as the whole rest of a help page.
"""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

EVERYTHING = "--help-all"
WIDEST, NARROWEST = 100, 40  # columns of a page
LONGEST_NAME = 26  # columns of an option's names; longer ones get a line of their own
INDENT = 2


class HelpGroup(TyperGroup):
    """A group of commands with a page of its own."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What follows the name in a usage line, in errors too."""
        return _usage(self, ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page."""
        formatter.write(_page(self, ctx, None))


class HelpCommand(TyperCommand):
    """A command whose --help shows `main_options` alone, if it has any, and whose --help-all shows all."""

    main_options: tuple[str, ...] = ()

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What follows the name in a usage line, in errors too."""
        return _usage(self, ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As every command does, once --help-all is out of the way."""
        words = args[: args.index("--")] if "--" in args else args
        if EVERYTHING in words and not ctx.resilient_parsing:
            typer.echo(_page(self, ctx, None), nl=False)
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the short page."""
        formatter.write(_page(self, ctx, self.main_options or None))


def with_main_options(*names: str, base: type[HelpCommand] = HelpCommand) -> type[HelpCommand]:
    """A class of commands whose short help shows the options called `names`."""
    return type(base.__name__, (base,), {"main_options": names})


def _page(command: Any, ctx: Any, chosen: tuple[str, ...] | None) -> str:
    """chosen: names of the options to show, in this order; None: all."""
    width = max(NARROWEST, min(shutil.get_terminal_size().columns, WIDEST))
    parts = [f"Usage: {' '.join([ctx.command_path, *_usage(command, ctx)])}"]
    parts += [_wrapped(text, width) for text in _paragraphs(command.help or "")]
    parameters = [one for one in command.get_params(ctx) if not getattr(one, "hidden", False)]
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    if described := [(_argument_name(one), one.help) for one in arguments if getattr(one, "help", None)]:
        parts.append(_section("Arguments", described, width))
    if isinstance(command, TyperGroup):
        parts.append(_section("Commands", list(_commands(command, ctx)), width))
    options = [one for one in parameters if one.param_type_name == "option"]
    by_name = {name: one for one in options for name in one.opts}
    shown = options if chosen is None else [by_name[name] for name in chosen]
    panels: dict[str, list[tuple[str, str]]] = {}
    for one in shown:
        panel = getattr(one, "rich_help_panel", None) if chosen is None else None
        panels.setdefault(panel or "Options", []).append((_option_name(one), _option_help(one)))
    if chosen is not None:
        rest = len(options) - len(shown) - 1  # --help itself
        panels.setdefault("Options", []).append((EVERYTHING, f"Show the other {rest} options, too."))
    parts += [_section(title, rows, width) for title, rows in panels.items()]
    if command.epilog:
        parts.append(_epilog(command.epilog, width))
    return "\n\n".join(parts) + "\n"


def _usage(command: Any, ctx: Any) -> list[str]:
    if isinstance(command, TyperGroup):
        return ["COMMAND ..."]
    arguments = [one for one in command.get_params(ctx) if one.param_type_name == "argument"]
    return [*(_argument_name(one) for one in arguments), "[OPTIONS]"]


def _argument_name(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    if argument.nargs != 1 and not name.endswith("..."):
        name += "..."
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _commands(group: Any, ctx: Any) -> Iterator[tuple[str, str]]:
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if not command.hidden:
            yield name, (_paragraphs(command.help or "") or [""])[0]


def _option_name(option: Any) -> str:
    short = [name for name in option.opts if not name.startswith("--")]
    long = [name for name in option.opts if name.startswith("--")]
    names = ", ".join([*short, *long[:1], *option.secondary_opts])
    if getattr(option, "is_flag", False):
        return names
    usual = "NUMBER" if isinstance(option.default, int | float) else option.name.upper()
    return f"{names} {option.metavar or usual}"


def _option_help(option: Any) -> str:
    default = _default(option)
    return (option.help or "") + (f" [{default}]" if default else "")


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if isinstance(option.show_default, str):
        return f"default: {option.show_default}"
    if not option.show_default or option.default is None or callable(option.default):
        return ""
    if getattr(option, "is_flag", False):
        # Of two names, the one that holds.
        return f"default: {option.opts[0]}" if option.default and option.secondary_opts else ""
    values = option.default if isinstance(option.default, tuple | list) else (option.default,)
    return f"default: {' '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in values)}"


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def _wrapped(text: str, width: int, indent: int = 0) -> str:
    margin = " " * indent
    return textwrap.fill(
        text,
        width,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _section(title: str, rows: Sequence[tuple[str, str]], width: int) -> str:
    """A title, and names with texts beside them; a text goes below a name that is too long."""
    column = INDENT + 2 + min(LONGEST_NAME, max(len(name) for name, _ in rows))
    lines = [typer.style(f"{title}:", bold=True)]
    for name, text in rows:
        block = _wrapped(text, width, column)
        if len(name) <= column - INDENT - 2:
            block = " " * INDENT + name.ljust(column - INDENT) + block[column:]
        else:
            block = " " * INDENT + name + "\n" + block
        lines.append(block.rstrip())
    return "\n".join(lines)


def _broken(command: str, room: int) -> list[str]:
    """A command in lines of at most `room` columns, broken between words."""
    return textwrap.wrap(
        command, room, subsequent_indent=" " * 2 * INDENT, break_long_words=False, break_on_hyphens=False
    )


def _epilog(text: str, width: int) -> str:
    """Paragraphs; those that begin with $ are commands, broken as a shell takes them."""
    lines: list[str] = []
    for part in _paragraphs(text):
        if part.startswith("$ "):
            room = width - INDENT - len(" \\")
            lines.append(" " * INDENT + f" \\\n{' ' * INDENT}".join(_broken(part, room)))
        else:
            lines += [typer.style(part, bold=True) if part.endswith(":") else _wrapped(part, width)]
    return "\n".join(lines)
