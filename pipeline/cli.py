"""The command line: one parser a subcommand over its configuration. Imports nothing heavy before the work.

A refusal ends with one sentence on stderr and exit code 2, work that failed in part with 1, an interruption with 130.
"""

import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pkgutil import resolve_name

from datasets.errors import InputError, UnfinishedError
from pipeline.masking import without_secrets
from pipeline.recipe import build, parse, recipe_parser
from pipeline.refusal import refusal


@dataclass(frozen=True)
class Command:
    """One subcommand: the function of its name in `module` does the work, given its configuration."""

    summary: str
    config: str  # module:Class
    module: str
    places: tuple[str, ...]  # settings by position
    flags: tuple[tuple[str, str], ...] = ()  # passed on as keyword arguments, with their help


_RUN = "pipeline.config:RunConfig"
COMMANDS = {
    "quickstart": Command(
        "go the whole way once: survey, training, registry, map, scores",
        "pipeline.quickstart:QuickstartConfig", "pipeline.quickstart", (),
        (("overwrite", "replace what an earlier quickstart left"),),
    ),
    "synthesize": Command(
        "make a synthetic 3-D seismic survey with known geology",
        "datasets.config:SynthesisConfig", "datasets.synthetic.survey", ("recipe",),
    ),
    "convert": Command(
        "turn SEG-Y, ENVI, GeoTIFF, netCDF, .mat, .npy or .grd into a labelled Zarr volume",
        "datasets.config_convert:ConvertConfig", "datasets.convert", ("recipe",),
    ),
    "inspect": Command(
        "examine a volume, alone or before a recipe: what it holds, what is wrong with it, a picture",
        "pipeline.config:InspectConfig", "pipeline.checkup.inspect", ("source",),
        (("json", "print the report as JSON"),),
    ),
    "plan": Command(
        "say what a recipe costs before it runs: parameters, FLOPs, peak memory, what fits",
        "pipeline.config:PlanConfig", "pipeline.planning.plan", ("recipe",),
        (("json", "print JSON instead of text"),),
    ),
    "train": Command(
        "train a network on a volume",
        _RUN, "pipeline.training.train", ("recipe",),
        (("resume", "go on with the run of this name"), ("overwrite", "replace the run of this name")),
    ),
    "tune": Command(
        "search depth, block rank, learning rate and more with Ray Tune",
        _RUN, "pipeline.sweep.tune", ("recipe",),
        (("resume", "go on with the sweep of this name; its finished trials are kept"),
         ("overwrite", "replace the sweep of this name, once the new one has a result"),
         ("finish", "retrain the best, score it once on the test part, and register it")),
    ),
    "evaluate": Command(
        "score a run on the test part of its split",
        "pipeline.config:EvaluateConfig", "pipeline.mapping.evaluate", ("run",),
        (("baseline", "add a random forest trained on the same split to the table"),),
    ),
    "report": Command(
        "write one self-contained HTML page of a run or a sweep: scores, pictures, how to make it again",
        "pipeline.config:ReportConfig", "pipeline.report.report", ("run",),
        (("overwrite", "replace the page at --out"),),
    ),
    "register": Command(
        "put a run's best checkpoint into the model registry",
        "pipeline.config:RegisterConfig", "pipeline.registry.register", ("run",),
    ),
    "promote": Command(
        "make the challenger of a registered model its champion, if it is better on the same test split",
        "pipeline.config:PromoteConfig", "pipeline.registry.promote", ("model",),
        (("rollback", "make the champion before the present one champion again"),
         ("force", "make it the champion without a comparison")),
    ),
    "predict": Command(
        "map a whole volume with a registered model or a run",
        "pipeline.config:PredictConfig", "pipeline.mapping.predict", ("model", "source", "out"),
        (("overwrite", "replace the map of this name"),),
    ),
    "export": Command(
        "write a map as SEG-Y, with the trace headers of the survey's own file",
        "datasets.config_export:ExportConfig", "datasets.export", ("map", "like", "out"),
        (("overwrite", "replace the file of this name"),),
    ),
    "batch": Command(
        "map every volume of a table with columns input and output, spread over a Ray cluster",
        "pipeline.config:BatchConfig", "pipeline.mapping.batch", ("model", "table"),
        (("overwrite", "replace maps of other models and volumes"),),
    ),
}  # fmt: skip


def usage() -> str:
    """Return the overview of all subcommands."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return f"""usage: python -m pipeline COMMAND [ARGUMENTS] [--setting value ...]

Segment whole geoscience volumes with fully invertible telegraph networks.

commands:
{commands}

`python -m pipeline COMMAND --help` explains a command; recipes are in pipeline/recipes."""


def _by_name(words: Sequence[str], places: Sequence[str], switch: bool) -> list[str]:
    """Name the settings that leading words without dashes stand for, and give a bare --overwrite its value."""
    named: list[str] = []
    rest = list(words)
    for place in places:
        if not rest or rest[0].startswith("-"):
            break
        named += [f"--{place}", rest.pop(0)]
    return named + ["--overwrite=true" if word == "--overwrite" and switch else word for word in rest]


def run_command(name: str, words: Sequence[str]) -> None:
    """Parse a subcommand's words and do its work."""
    command = COMMANDS[name]
    if not all(map(find_spec, (command.config.partition(":")[0], command.module))):
        raise InputError(f"the code of {name} is not here, as in a job (.rayignore); run it from a checkout")
    config = resolve_name(command.config)
    prog, places = f"python -m pipeline {name}", " ".join(f"[{place.upper()}]" for place in command.places)
    parser = recipe_parser(
        config, prog=prog, usage=f"{prog} {places} [--setting value ...]", description=command.summary
    )
    for flag, text in command.flags:
        parser.add_argument(f"--{flag}", action="store_true", default=SUPPRESS, help=text)  # not in a recipe
    parsed = parse(parser, _by_name(words, command.places, "overwrite" in config.__dataclass_fields__))
    flags = {flag: bool(parsed.pop(flag, False)) for flag, _ in command.flags}
    resolve_name(f"{command.module}:{name}")(build(config, parser, parsed), **flags)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if words is None else list(words)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    if words[0] not in COMMANDS:
        print(f"error: {words[0]!r} is not a command; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        run_command(words[0], words[1:])
    except UnfinishedError as error:
        print(f"error: {without_secrets(str(error))}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        text = refusal(error)
        if text is None:
            raise
        print(f"error: {without_secrets(text)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
