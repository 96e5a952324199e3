"""``fastdl bench``: the command line of the benchmark."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastdl.bench import machine, report, runner


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="fastdl bench", description="Measure fastdl's kernels, beside a peer if asked."
    )
    made.add_argument(
        "--family", action="append", metavar="NAME", help="a family, may be repeated (default: all)"
    )
    made.add_argument("--case", metavar="TEXT", default="", help="only cases whose name contains TEXT")
    made.add_argument(
        "--against", choices=["torch"], help="measure this library too, in its own process, in turn"
    )
    made.add_argument(
        "--threads", type=int, default=2, metavar="N", help="threads for every library (default: 2)"
    )
    made.add_argument("--seconds", type=float, default=0.2, help="sampling time per library, case and round")
    made.add_argument("--json", metavar="FILE", help="write results to FILE, anew after every case")
    made.add_argument(
        "--resume", action="store_true", help="keep the results that the --json file has, measure the others"
    )
    made.add_argument("--markdown", metavar="FILE", help="write the results as tables to FILE")
    made.add_argument(
        "--plot", metavar="FILE", help="draw the ratios to FILE (PNG; needs matplotlib and --against)"
    )
    made.add_argument("--list", action="store_true", help="list families and cases, measure nothing")
    return made


def _write(path: str, text: str) -> None:
    """Replace the file as a whole: an interruption leaves the old one or the new one."""
    new = Path(f"{path}.new")
    new.write_text(text)
    new.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    known = runner.families()
    chosen = options.family or known
    for name in chosen:
        if name not in known:
            print(f"fastdl bench: no family {name!r}; there are: {', '.join(known)}", file=sys.stderr)
            return 2
    if options.threads < 1:
        print(f"fastdl bench: --threads must be at least 1, got {options.threads}", file=sys.stderr)
        return 2
    if options.resume and not options.json:
        print("fastdl bench: --resume goes on from the file of --json; give one", file=sys.stderr)
        return 2
    if options.plot and not options.against:
        print("fastdl bench: --plot draws ratios to a peer; add --against torch", file=sys.stderr)
        return 2
    if options.against and importlib.util.find_spec(options.against) is None:
        print(
            f"fastdl bench: --against {options.against}: {options.against} is not installed; "
            "install it with: pip install 'fastdl[compare]'",
            file=sys.stderr,
        )
        return 2
    if options.list:
        for name in chosen:
            for case in runner.cases_of(name):
                print(f"{name:12} {case.name} ({case.mode})")
        return 0
    measured = machine.limits(options.threads)
    described = machine.describe(options.threads, measured, options.against)
    print(
        f"{described['cpu']}, level {described['level']}, {options.threads} threads: "
        f"{measured['gflops']:.0f} GFLOP/s, {measured['gbs']:.0f} GB/s"
    )
    document: dict[str, Any] = {"machine": described, "results": []}
    if options.resume and os.path.exists(options.json):
        document["results"] = json.loads(Path(options.json).read_text())["results"]
    done = {(r["family"], r["case"], r["mode"]) for r in document["results"]}

    for name in chosen:
        wanted = [
            case
            for case in runner.cases_of(name)
            if options.case in case.name and (name, case.name, case.mode) not in done
        ]
        if not wanted:
            continue
        print(f"\n{name}\n{report.HEADER}")
        for result in runner.measure(
            name, options.against, options.threads, measured, wanted, options.seconds
        ):
            document["results"].append(asdict(result))
            print(report.line(document["results"][-1]), flush=True)
            if options.json:  # after every case: an interrupted run keeps what it has measured
                _write(options.json, json.dumps(document, indent=1) + "\n")
    if options.markdown:
        _write(options.markdown, report.markdown(document))
    if options.plot:
        report.plot(document, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
