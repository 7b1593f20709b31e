"""Groups of commands: their modules are imported when they are asked for, and a mistyped one is told the known ones."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class CommandGroup(click.Group):
    """A group of commands.

    `commands_in`: name → the module that has a command of that name. `others_in`: the module that knows commands of
    other packages, by `names()` and `load(name)`; ours come first. Both are imported late, because `streamtask worker`
    is to start without what draws tables and bars, and without what reads which packages are installed.
    """

    def __init__(
        self, *args: Any, commands_in: Mapping[str, str] | None = None, others_in: str | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._modules = dict(commands_in or {})
        self._others = others_in

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every name, in the order of the help."""
        own = [*self._modules, *super().list_commands(ctx)]
        others = import_module(self._others).names() if self._others else ()
        return [*own, *(name for name in others if name not in own)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, or None."""
        command = super().get_command(ctx, cmd_name)
        if module := self._modules.get(cmd_name):
            command = getattr(import_module(module), cmd_name)
        elif command is None and self._others:
            command = import_module(self._others).load(cmd_name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without any argument: the help, as a mistake."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments begin with."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = ", ".join(self.list_commands(ctx))
            raise click.UsageError(f"there is no command {args[0]!r} here; there are {known}.", ctx)
        return super().resolve_command(ctx, args)
