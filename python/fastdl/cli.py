"""The ``fastdl`` command: ``demo``, ``info``, ``bench``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from fastdl import __version__, show_config


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="fastdl", description="A small, fast deep-learning library.")
    made.add_argument("--version", action="version", version=f"fastdl {__version__}")
    commands = made.add_subparsers(dest="command", metavar="command", required=True)

    demo = commands.add_parser(
        "demo", help="train LeNet-5 on handwritten digits", description="Train LeNet-5 on handwritten digits."
    )
    demo.add_argument(
        "--data", metavar="DIR", help="directory with MNIST or Fashion-MNIST IDX files, gz or not"
    )
    demo.add_argument(
        "--output", metavar="DIR", default="fastdl-demo", help="where to write (default: fastdl-demo)"
    )
    demo.add_argument("--epochs", type=int, help="passes over the data (default: 20, or 3 for large data)")
    demo.add_argument("--seed", type=int, default=0, help="of weights, order and split (default: 0)")

    commands.add_parser("info", help="print CPU, level, threads, allocator, CUDA")
    commands.add_parser("bench", help="measure the kernels (fastdl bench --help)", add_help=False)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command; returns the exit status."""
    try:
        return run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        print("\nfastdl: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `fastdl ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 141


def run(given: Sequence[str]) -> int:
    if given[:1] == ["bench"]:  # has a parser of its own
        from fastdl.bench.__main__ import main as bench

        return bench(given[1:])
    if not given:
        parser().print_help()
        return 2
    options = parser().parse_args(given)
    if options.command == "info":
        show_config()
        return 0
    if options.epochs is not None and options.epochs < 1:
        print(f"fastdl demo: --epochs must be at least 1, got {options.epochs}", file=sys.stderr)
        return 2
    from fastdl import demo

    try:
        demo.run(options.data, options.output, options.epochs, options.seed)
    except BrokenPipeError:
        raise
    except OSError as error:  # a file that is missing, or a directory that cannot be written to
        reason = f"{error.filename}: {error.strerror}" if error.strerror else str(error)
        print(f"fastdl demo: {reason}", file=sys.stderr)
        return 1
    except ValueError as error:
        if options.data is None:  # not the user's data: a bug
            raise
        print(f"fastdl demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
