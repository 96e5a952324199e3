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

import fastdl
from fastdl.bench import device, machine, report, runner


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="fastdl bench", description="Measure fastdl's kernels, beside a peer if asked."
    )
    made.add_argument(
        "--family", action="append", metavar="NAME", help="a family, may be repeated (default: all)"
    )
    made.add_argument("--case", metavar="TEXT", default="", help="only cases whose name contains TEXT")
    made.add_argument(
        "--against",
        choices=["torch", "cpu"],
        help="measure this too, in its own process, in turn: torch, or (with --device cuda) fastdl on the CPU",
    )
    made.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)"
    )
    made.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="of tensors and parameters on a GPU (default: float32, products and convolutions in TF32)",
    )
    ways = [how for how in device.HOWS if how != "eager"]
    made.add_argument(
        "--how",
        action="append",
        choices=[*ways, "eager"],
        help="further ways of running on a GPU, may be repeated (default: all; eager: no others)",
    )
    made.add_argument(
        "--threads", type=int, default=2, metavar="N", help="threads for every library (default: 2)"
    )
    made.add_argument("--seconds", type=float, default=0.2, help="sampling time per library, case and round")
    made.add_argument("--json", metavar="FILE", help="write results to FILE, anew after every case")
    made.add_argument(
        "--resume", action="store_true", help="keep the results that the --json file has, measure the others"
    )
    made.add_argument(
        "--render",
        action="append",
        metavar="FILE",
        help="measure nothing, take the results of this file (may be repeated) for --json, --markdown, --plot",
    )
    made.add_argument("--markdown", metavar="FILE", help="write the results as tables to FILE")
    made.add_argument(
        "--plot", metavar="FILE", help="draw the ratios to FILE (PNG; needs matplotlib and --against)"
    )
    made.add_argument(
        "--summary", action="store_true", help="print a line per family at the end: mean ratio, extremes"
    )
    made.add_argument("--list", action="store_true", help="list families and cases, measure nothing")
    return made


def _write(path: str, text: str) -> None:
    """Replace the file as a whole: an interruption leaves the old one or the new one."""
    new = Path(f"{path}.new")
    new.write_text(text)
    new.replace(path)


def _refusal(options: argparse.Namespace, known: Sequence[str]) -> str | None:
    """What is wrong with the options, or None."""
    for name in options.family or []:
        if name not in known:
            return f"no family {name!r}; there are: {', '.join(known)}"
    if options.threads < 1:
        return f"--threads must be at least 1, got {options.threads}"
    if options.resume and not options.json:
        return "--resume goes on from the file of --json; give one"
    if options.plot and not options.against and not options.render:
        return "--plot draws ratios to a peer; add --against torch"
    if options.against == "torch" and importlib.util.find_spec("torch") is None:
        return "--against torch: torch is not installed; install it with: pip install 'fastdl[compare]'"
    if options.against == "cpu" and options.device == "cpu":
        return "--against cpu compares a GPU with the CPU; add --device cuda"
    if options.device == "cpu" and options.dtype != "float32":
        return f"--dtype {options.dtype}: the CPU has kernels for float32; add --device cuda"
    if options.device == "cuda" and not options.list and (reason := fastdl.cuda.unavailable_reason()):
        return f"--device cuda: {reason}"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    known = runner.families()
    if (refusal := _refusal(options, known)) is not None:
        print(f"fastdl bench: {refusal}", file=sys.stderr)
        return 2
    chosen = options.family or known
    if options.list:
        for name in chosen:
            for case in runner.cases_of(name, options.device):
                print(f"{name:12} {case.name} ({case.mode})")
        return 0
    if options.render:
        document = report.merged([json.loads(Path(name).read_text()) for name in options.render])
        if options.json:
            _write(options.json, json.dumps(document, indent=1) + "\n")
    else:
        document = _measure(options, chosen)
    if options.markdown:
        _write(options.markdown, report.markdown(document))
    if options.plot:
        report.plot(document, options.plot)
    if options.summary:
        print(report.summary(document))
    return 0


def _measure(options: argparse.Namespace, families: Sequence[str]) -> dict[str, Any]:
    """The document with the results of the chosen cases, printed and saved as they come."""
    if options.device == "cpu":
        measured = machine.limits(options.threads)
        described = machine.describe(options.threads, measured, options.against)
        place = f"{described['cpu']}, level {described['level']}, {options.threads} threads"
    else:
        measured = machine.device_limits(options.dtype)
        described = machine.describe_device(options.threads, measured)
        place = f"{described['gpu']}, driver {described['driver']}, {options.dtype}"
    print(f"{place}: {measured['gflops']:.0f} GFLOP/s, {measured['gbs']:.0f} GB/s")
    document: dict[str, Any] = {"machine": described, "results": []}
    if options.resume and os.path.exists(options.json):
        before = json.loads(Path(options.json).read_text())
        document["results"] = before["results"]
        described["versions"] = before["machine"]["versions"] | described["versions"]
    done = {report.key(r) for r in document["results"]}
    hows = options.how or list(device.HOWS)
    crew = runner.Crew(options.threads)
    try:
        for name in families:
            wanted = [
                case
                for case in runner.cases_of(name, options.device)
                if options.case in case.name and (name, case.name, case.mode, options.dtype) not in done
            ]
            if not wanted:
                continue
            print(f"\n{name}\n{report.HEADER}")
            settings = runner.settings(name, options.against, options.device, options.dtype, hows)
            for result in runner.measure(crew, settings, name, measured, wanted, options.seconds):
                document["results"].append(asdict(result))
                print(report.line(document["results"][-1]), flush=True)
                described["versions"] |= crew.versions()
                if options.json:  # after every case: an interrupted run keeps what it has measured
                    _write(options.json, json.dumps(document, indent=1) + "\n")
            if (
                options.device == "cpu"
            ):  # a process for each family, as memory that one leaves may help the next
                crew.close()
    finally:
        crew.close()
    for text in report.crossings(document):
        print(text)
    return document


if __name__ == "__main__":
    sys.exit(main())
