"""The ``binderclip`` command: assembles the verbs and turns errors into one line and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from binderclip.cli import (
    bench,
    classify,
    dedup,
    embed,
    evaluate,
    explain,
    finetune,
    search,
    segment,
    serve,
    similar,
    train,
    tune,
)
from binderclip.cli.adapt import adapt_app
from binderclip.cli.caption import caption_app
from binderclip.cli.compress import compress_app
from binderclip.cli.console import fail, quiet_warnings
from binderclip.cli.continual import continual_app
from binderclip.cli.curate import curate_app
from binderclip.cli.dense import dense_app
from binderclip.cli.doctor import doctor
from binderclip.cli.index import index_app
from binderclip.cli.methods import methods_app
from binderclip.cli.model import model_app
from binderclip.cli.models import models_app
from binderclip.cli.recipes import recipes_app

__all__ = ["app", "main"]

# Typer may carry a copy of click: take the root of usage errors from the class that Typer itself exports.
_UsageProblem: type[Any] = typer.BadParameter.__mro__[2]

DONE, NOTHING, BAD, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="binderclip",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Search, classify and understand your own pictures with CLIP: offline, on an embedded model.",
    epilog="First steps: [bold]binderclip index ./photos[/bold], then [bold]binderclip search 'a red bicycle'[/bold].",
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from binderclip import __version__

        typer.echo(f"binderclip {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Search, classify and understand your own pictures with CLIP: offline, on an embedded model."""


app.add_typer(index_app, name="index")
app.command("search", epilog=search.EPILOG)(search.search)
app.command("classify", epilog=classify.EPILOG)(classify.classify)
app.command("evaluate", epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command("explain", epilog=explain.EPILOG)(explain.explain)
app.command("bench", epilog=bench.EPILOG)(bench.bench)
app.command("similar", epilog=similar.EPILOG)(similar.similar)
app.command("dedup", epilog=dedup.EPILOG)(dedup.dedup)
app.command("embed", epilog=embed.EPILOG)(embed.embed)
app.command("serve", epilog=serve.EPILOG)(serve.serve)
app.command("segment", epilog=segment.EPILOG)(segment.segment)
app.command("train", epilog=train.EPILOG)(train.train)
app.command("finetune", epilog=finetune.EPILOG)(finetune.finetune)
app.command("tune", epilog=tune.EPILOG)(tune.tune)
app.add_typer(caption_app, name="caption")
app.add_typer(recipes_app, name="recipes")
app.add_typer(adapt_app, name="adapt")
app.add_typer(curate_app, name="curate")
app.add_typer(continual_app, name="continual")
app.add_typer(dense_app, name="dense")
app.add_typer(compress_app, name="compress")
app.add_typer(models_app, name="models")
app.add_typer(model_app, name="model")
app.add_typer(methods_app, name="methods")
app.command("doctor")(doctor)


def main() -> None:
    """Run the command line; errors of ours become one line on stderr and exit code 2."""
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 nothing matched, 2 bad input or usage, 130 interrupted."""
    from binderclip.errors import BinderclipError

    quiet_warnings()
    try:
        code = app(args=arguments, standalone_mode=False)
    except typer.Exit as leave:
        return int(leave.exit_code)
    except BinderclipError as error:
        fail(str(error))
        return BAD
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted; what was done so far is kept")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away (`| head`): nothing is wrong, and nobody is left to tell.
        sys.stderr.close()
        return DONE
    except _UsageProblem as error:
        error.show()
        return BAD
    return code if isinstance(code, int) else DONE
