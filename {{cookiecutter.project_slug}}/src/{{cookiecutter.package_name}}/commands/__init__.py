"""The command line: each file of this folder is a command group, found by listing the folder."""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module

import typer

from ..errors import ProjectError
from ..settings import PACKAGE


def build() -> typer.Typer:
    """Return the whole command line: a module's ``app`` is a group, its ``command`` a single command.

    A module with a ``GROUP`` adds the commands of its ``app`` to the group of that name.
    """
    root = typer.Typer(
        name=PACKAGE.replace("_", "-"),
        help="Import, promote, serve, score, watch and document a trained model.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    groups: dict[str, typer.Typer] = {}
    for found in pkgutil.iter_modules(__path__):
        module = import_module(f".{found.name}", __name__)
        if hasattr(module, "app"):
            name = getattr(module, "GROUP", found.name)
            if name not in groups:
                groups[name] = typer.Typer(no_args_is_help=True)
                root.add_typer(groups[name], name=name)
            groups[name].info.help = module.app.info.help or groups[name].info.help
            groups[name].registered_commands += module.app.registered_commands
        else:
            root.command(name=found.name)(module.command)
    return root


def main() -> None:
    """Run the command line; what a person can mend is said in one sentence, with status 1."""
    try:
        build()(prog_name=PACKAGE.replace("_", "-") if sys.argv[0].endswith("__main__.py") else None)
    except ProjectError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
