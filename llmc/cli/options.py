"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from compiler.errors import RequestError


@dataclass
class Settings:
    """What holds for a whole command.

    Attributes:
        debug: whether errors come with tracebacks.
        arguments: the command line.
    """

    debug: bool = False
    arguments: Sequence[str] = ()


settings = Settings()


def _debug(wanted: bool) -> None:
    settings.debug = settings.debug or wanted


Debug = Annotated[bool, typer.Option("--debug", callback=_debug, is_eager=True, help="Show tracebacks of errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, notes or summary; errors only.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A Python file that registers passes, ops or families of models. May be repeated.",
    ),
]
Passes = Annotated[
    str,
    typer.Option(
        metavar="PIPELINE", help="Rewrites in the order given, such as cleanup,dtype=bfloat16. See: llmc passes."
    ),
]
Explain = Annotated[
    bool, typer.Option("--explain", help="Say what each pass changed, and why its rules declined elsewhere.")
]
DumpIr = Annotated[
    Path | None,
    typer.Option("--dump-ir", metavar="DIR", help="Write the graph's text after lifting and after each pass."),
]
FoldLayers = Annotated[
    bool,
    typer.Option(
        "--fold-layers", help="For a reader: show a layer once, and of those that are as it is only which they are."
    ),
]
Timing = Annotated[bool, typer.Option("--timing", help="Say how long each pass and each phase took.")]
DummyWeights = Annotated[
    bool, typer.Option("--dummy-weights", help="Make weights up, to test size and speed: config.json suffices.")
]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A file of weights, instead of those in the checkpoint's folder."),
]
WeightsFormat = Annotated[
    str | None,
    typer.Option(
        metavar="FORMAT",
        help="How weights are stored where no file says it: gptq:bits=4:group=128, awq:group=128, "
        "tensorrt-llm:gpu=hopper.",
    ),
]
Scales = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Scales that AMMO or ModelOpt exported (.npz or .json), to quantize weights, inputs and caches with.",
    ),
]
Prompts = Annotated[list[str] | None, typer.Option("--prompt", metavar="TEXT", help="A prompt. May be repeated.")]
PromptIds = Annotated[
    list[str] | None, typer.Option(metavar="IDS", help="A prompt as token ids, such as 1,2,3. May be repeated.")
]
NoSpecialTokens = Annotated[
    bool,
    typer.Option(
        "--no-special-tokens",
        help="Encode text without the tokens that the tokenizer puts around it, such as T5's </s> behind it.",
    ),
]
MaxNewTokens = Annotated[int, typer.Option(metavar="N", help="How many tokens to add to each prompt.")]
MaxBatch = Annotated[int, typer.Option(metavar="N", help="How many sequences run at once.")]
MaxBatchOrNone = Annotated[
    int | None, typer.Option(metavar="N", help="How many sequences run at once; 8 if not given.")
]
MaxInput = Annotated[
    int | None, typer.Option(metavar="N", help="How many tokens a prompt may have; --max-seq if not given.")
]
MaxSeq = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="How many tokens per prompt and its continuation may have; the model's context if not given."
    ),
]
GraphOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="OUT.ir", help="Where to write; standard output if not given, or for -."),
]
DType = Annotated[
    str | None,
    typer.Option("--dtype", metavar="TYPE", help="float32, float16 or bfloat16; the checkpoint's own if not given."),
]
Calib = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A text for quantization to calibrate with, or documents as lines of JSON (.jsonl); a small one in "
        "English if not given.",
    ),
]
CalibSamples = Annotated[
    int | None,
    typer.Option(metavar="N", help="How many windows of it to use; as many as it has, up to 128, if not given."),
]
CalibLength = Annotated[
    int | None, typer.Option(metavar="N", help="How many tokens a window has; up to 512 if not given.")
]
CalibSeed = Annotated[int, typer.Option(metavar="N", help="Decides which windows are used.")]
Report = Annotated[
    str,
    typer.Option(
        metavar="full|quick|off",
        help="Of which quantized linears the error is measured: full (all), quick (what takes less than a tenth of the "
        "time) or off. What calibrates anyway measures all of its own.",
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[
    int | None, typer.Option(metavar="N", help="Threads to compute with on a CPU; one for each core if not given.")
]
Hostfile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Hosts for an engine of several ranks, a line each: HOST slots=N."),
]
NoVerify = Annotated[
    bool, typer.Option("--no-verify", help="Do not compare an engine's files with their digests: starts sooner.")
]


def file_or_none(output: Path | None) -> Path | None:
    """The file to write; None for standard output, which `-` is, too."""
    return None if output is None or str(output) == "-" else output


def words(text: str) -> tuple[str, ...]:
    """The words of a list with commas."""
    return tuple(part.strip() for part in text.split(","))


def sizes(option: str, text: str | None) -> tuple[int, ...] | None:
    """The numbers of a list such as `1,8,64`; None for None. RequestError, naming the option, for anything else."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise RequestError(
            f"{option} {text!r} is no list of numbers", hint=f"write numbers with commas: {option} 1,8"
        ) from None
