"""The command line: `reveal COMMAND`. Loads a command's module only when that command is used."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import NoReturn

import click

from cli.text import printable
from reveal_core.errors import UserError, no_memory

#: One file per command: name -> (module, what `reveal --help` says of it).
COMMANDS = {
    "init": ("cli.init", "Look at a folder of files and write a manifest for it."),
    "run": ("cli.run", "Run every stage whose inputs changed."),
    "extract": ("cli.extract", "Run the stages up to the item features."),
    "train": ("cli.train", "Run the stages up to the metrics."),
    "evaluate": ("cli.evaluate", "Bring the metrics up to date and show them."),
    "validate": ("cli.validate", "Check the data against a manifest without running anything."),
    "report": ("cli.report", "Draw one page of what a run learned, and whether to trust it."),
    "compare": ("cli.compare", "Compare finished runs, or the runs of an ablation."),
    "status": ("cli.status", "Say for each stage whether it is done, and if not, why."),
    "recommend": ("cli.recommend", "Recommend items to users, after a history, or like an item or a picture."),
    "explain": ("cli.explain", "Say what an item's score owes to modalities and to a history."),
    "export": ("cli.export", "Write vectors, index and model of a run in the formats of other tools."),
    "gc": ("cli.gc", "Say which results no run needs any more, and delete them."),
    "ablate": ("cli.ablate", "Compare variants of a manifest under the same seeds."),
    "tune": ("cli.tune", "Look for better settings, judged on validation."),
    "demo-data": ("cli.demo_data", "Draw a small shop: product photos and shoppers' logs."),
    "demo-truth": ("cli.demo_truth", "Judge learned attention by where the demo shop's prints are."),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is called, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command {args[0]!r} ({hint})")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="reveal-recsys", prog_name="reveal")
def reveal() -> None:
    """Images and clicks in, a recommender and honest metrics out.

    \b
    Example:
      reveal demo-data --out demo-data
      reveal run --manifest manifests/demo.yaml
    """


def main() -> None:
    """Exit codes: 0 fine, 1 our mistake, 2 the user's mistake, 130 interrupted."""
    try:
        if os.environ.get("WORLD_SIZE", "1") == "1":
            reveal(standalone_mode=False)
        else:
            _together()
    except UserError as error:
        _refuse(error)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; the same command goes on from here", err=True)
        sys.exit(130)
    except Exception as error:
        from reveal_core.disk import refusal

        refused = refusal(error) or no_memory(error)
        if refused is not None:
            _refuse(refused)
        traceback.print_exc()
        click.echo("error: this is a bug in reveal, not in your data; please report the lines above", err=True)
        sys.exit(1)


def _together() -> None:
    """One of several processes that `torchrun` started: the first runs the command, the others help it train."""
    from pipeline.crew import follow
    from reveal_core.parallel import joined

    with joined() as group:
        if not group.leads:
            follow(group)
            return
        try:
            reveal(standalone_mode=False)
        finally:
            group.tell(None)


def _refuse(error: UserError) -> NoReturn:
    click.echo(f"error: {printable(str(error))}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
