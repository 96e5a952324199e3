"""Results for people: a terminal line per case, a Markdown table, a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

HEADER = f"{'case':44} {'':4} {'fastdl us':>11} {'peer us':>11} {'ratio':>7} {'tcm.':>7} {'limit':>6}  target"


def key(result: dict[str, Any]) -> tuple[str, str, str, str]:
    """What identifies a case in a document."""
    return result["family"], result["case"], result["mode"], result.get("dtype", "float32")


def merged(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One document of several from one machine. Where a case comes again, its new columns join the first ones'."""
    machine = dict(documents[0]["machine"])
    found: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for document in documents:
        machine["versions"] = machine["versions"] | document["machine"]["versions"]
        for result in document["results"]:
            first = found.setdefault(key(result), dict(result))
            for name in ("more_us", "errors"):
                first[name] = result.get(name, {}) | first.get(name, {})
    return {"machine": machine, "results": list(found.values())}


def line(result: dict[str, Any]) -> str:
    """One result as a line of the terminal table under :data:`HEADER`."""

    def number(value: float | None, format_: str) -> str:
        return "-" if value is None else format(value, format_)

    memory = ""
    if result["fastdl_mb"] is not None:
        memory = f"  memory {number(result['fastdl_mb'], '.1f')} / {number(result['peer_mb'], '.1f')} MB"
    target = ""
    if result["target"] and result["ratio"] is not None:
        target = f"{result['target']:.2f}x " + (
            "reached" if result["ratio"] >= result["target"] else "MISSED"
        )
    more = "".join(f"  {name} {us:.1f}" for name, us in result.get("more_us", {}).items())
    errors = "".join(f"  [{name}: {why}]" for name, why in result.get("errors", {}).items())
    wall = result.get("fastdl_wall_us")
    host = "" if wall is None else f"  wall {wall:.1f} / {number(result['peer_wall_us'], '.1f')}"
    return (
        f"{result['case']:44} {result['mode']:4} {number(result['fastdl_us'], '.1f'):>11} "
        f"{number(result['peer_us'], '.1f'):>11} {number(result['ratio'], '.2f'):>7} "
        f"{number(result['ratio_tcmalloc'], '.2f'):>7} {number(result['fraction'], '.0%'):>6}  {target}{memory}"
        f"{host}{more}{errors}"
    )


def crossings(document: dict[str, Any]) -> list[str]:
    """A sentence for each series that was measured on a GPU and on the CPU: from which size on the GPU is faster."""
    names = list(dict.fromkeys(r["series"] for r in document["results"] if r.get("series")))
    sentences = []
    for name in names:
        points = _points(document, name)
        if not points:
            continue
        sizes, cpu, gpu = zip(*points, strict=True)
        at = crossing(sizes, cpu, gpu)
        if at is None:
            where = f"the CPU is faster up to {sizes[-1]:,} elements, the largest size"
        elif at <= sizes[0]:
            where = f"the GPU is faster from {sizes[0]:,} elements on, the smallest size"
        else:
            where = f"the GPU is faster from about {at:,.0f} elements on"
        sentences.append(f"{name}: {where}")
    return sentences


def _points(document: dict[str, Any], series: str) -> list[tuple[int, float, float]]:
    """Size, and microseconds on the CPU and on the GPU by the host's clock, of a series."""
    return sorted(
        (r["size"], r["peer_wall_us"], r["fastdl_wall_us"])
        for r in document["results"]
        if r.get("series") == series and r["peer_wall_us"] and r["fastdl_wall_us"]
    )


def crossing(sizes: Sequence[int], cpu: Sequence[float], gpu: Sequence[float]) -> float | None:
    """The size from which on the GPU stays faster, between measured ones by a straight line in logarithms.

    None if the CPU is faster at the largest size; the smallest size if the GPU is faster at all of them.
    """
    gains = [math.log(c / g) for c, g in zip(cpu, gpu, strict=True)]  # above 0 the GPU is faster
    if gains[-1] <= 0:
        return None
    last = max((i for i, gain in enumerate(gains) if gain <= 0), default=None)
    if last is None:
        return float(sizes[0])
    low, high = math.log(sizes[last]), math.log(sizes[last + 1])
    return math.exp(low + (high - low) * -gains[last] / (gains[last + 1] - gains[last]))


def summary(document: dict[str, Any]) -> str:
    """A line per family and dtype: the geometric mean of the ratios, and the slowest and the fastest case."""
    lines = []
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r in document["results"]:
        groups.setdefault((r["family"], r.get("dtype", "float32")), []).append(r)
    for (family, dtype), results in groups.items():
        ratios = sorted((r["ratio"], f"{r['case']} {r['mode']}") for r in results if r["ratio"])
        missing = sum(r["fastdl_us"] is None for r in results)
        text = f"{family:12} {dtype:9} {len(results):3} cases"
        if ratios:
            mean = math.exp(sum(math.log(ratio) for ratio, _ in ratios) / len(ratios))
            (low, lowest), (high, highest) = ratios[0], ratios[-1]
            text += f", ratio {mean:.2f}; {low:.2f} {lowest}; {high:.2f} {highest}"
        if missing:
            text += f"; {missing} without a time of fastdl's"
        lines.append(text)
    return "\n".join(lines)


def _headline(machine: dict[str, Any]) -> str:
    if "gpu" in machine:
        return f"{machine['gpu']}, driver {machine['driver']}, {machine['cpu']}"
    return f"{machine['cpu']}, level {machine['level']}, {machine['threads']} threads"


def markdown(document: dict[str, Any]) -> str:
    """The whole document as Markdown, a table per family."""
    machine = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = [
        "# Results\n",
        f"{_headline(machine)}; measured limits "
        f"{machine['gflops']:.0f} GFLOP/s and {machine['gbs']:.0f} GB/s; {versions}; {machine['date']}.\n",
    ]
    if "gpu" in machine:
        return "\n".join(parts + _device_tables(document)) + "\n"
    parts.append(
        "Medians in microseconds, each library in its own process, sampled in turn. `ratio` is torch's time over "
        "fastdl's (above 1 fastdl is faster); the next column is the same with torch on tcmalloc; `limit` is the "
        "fraction of this machine's arithmetic or bandwidth limit; f = forward, fb = forward and backward. MB: the "
        "most memory that one call holds at once beside its inputs, fastdl's by its allocator's count, torch's by the "
        "growth of its process.\n",
    )
    names = list(dict.fromkeys(r["family"] for r in document["results"]))
    for name in names:
        rows = [r for r in document["results"] if r["family"] == name]
        memory = any(r.get("fastdl_mb") is not None for r in rows)
        more = " fastdl MB | torch MB |" if memory else ""
        parts.append(f"\n## {name}\n\n| case | | fastdl | torch | ratio | tcmalloc | limit | target |{more}")
        parts.append("|---|---|---:|---:|---:|---:|---:|---:|" + "---:|---:|" * memory)
        parts += [_row(r, memory) for r in rows]
    return "\n".join(parts) + "\n"


def _cell(value: float | None, format_: str) -> str:
    return "" if value is None else format(value, format_)


def _row(r: dict[str, Any], memory: bool) -> str:
    ratio = _cell(r["ratio"], ".2f")
    if r["target"] and r["ratio"] is not None and r["ratio"] < r["target"]:
        ratio += " (missed)"
    return (
        f"| {r['case']} | {r['mode']} | {_cell(r['fastdl_us'], ',.1f')} | {_cell(r['peer_us'], ',.1f')} | {ratio} | "
        f"{_cell(r['ratio_tcmalloc'], '.2f')} | {_cell(r['fraction'], '.0%')} | {_cell(r['target'], '.2f')} |"
        + (f" {_cell(r.get('fastdl_mb'), '.1f')} | {_cell(r.get('peer_mb'), '.1f')} |" if memory else "")
    )


def _device_tables(document: dict[str, Any]) -> list[str]:
    """A GPU's tables: both libraries' usual way, then the others, then what could not be measured."""
    parts = [
        "Medians in microseconds on the GPU, by events, inputs not in its caches; `wall` is what the host sees with "
        "calls one behind the other. Training steps include the host's share. `ratio` is the peer's time over "
        "fastdl's (above 1 fastdl is faster), against the CPU by the wall clock; `limit` is the fraction of the GPU's "
        "measured arithmetic or bandwidth limit. float32 products and convolutions may use TF32 in both libraries.\n",
    ]
    sentences = crossings(document)
    if sentences:
        parts += ["\n## CPU or GPU\n", *[f"- {sentence}" for sentence in sentences]]
    results = document["results"]
    for name in dict.fromkeys(r["family"] for r in results):
        rows = [r for r in results if r["family"] == name]
        ways = list(dict.fromkeys(way for r in rows for way in r["more_us"]))
        head = ["case", "", "dtype", "fastdl", "peer", "ratio", "limit", "fastdl wall", "peer wall", *ways]
        parts.append(f"\n## {name}\n\n| {' | '.join(head)} |")
        parts.append("|---|---|---|" + "---:|" * (len(head) - 3))
        for r in rows:
            numbers = [
                _cell(r["fastdl_us"], ",.1f"),
                _cell(r["peer_us"], ",.1f"),
                _cell(r["ratio"], ".2f"),
                _cell(r["fraction"], ".0%"),
                _cell(r["fastdl_wall_us"], ",.1f"),
                _cell(r["peer_wall_us"], ",.1f"),
                *[_cell(r["more_us"].get(way), ",.1f") for way in ways],
            ]
            parts.append("| " + " | ".join([r["case"], r["mode"], r["dtype"], *numbers]) + " |")
    failed = [(r, way, why) for r in results for way, why in r["errors"].items()]
    if failed:
        parts.append("\n## Not measured\n")
        parts += [
            f"- {r['family']} {r['case']} {r['mode']} {r['dtype']}, {way}: {why}" for r, way, why in failed
        ]
    return parts


def plot(document: dict[str, Any], path: str | Path) -> None:
    """A row per family: each case a dot at how many times faster than the peer it is, the median a bar, on a
    logarithmic axis; beside it the median, and how many cases are at least as fast. The tables have the names."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    results = [r for r in document["results"] if r["ratio"] is not None]
    series = list(dict.fromkeys(r["series"] for r in results if r.get("series")))
    results = [r for r in results if not r.get("series")]
    if series and not results:
        _plot_crossings(document, series, path)
        return
    if not results:
        raise ValueError("plot: no case was measured against a peer; run with --against torch")
    families = list(dict.fromkeys(r["family"] for r in results))
    figure, axes = plt.subplots(figsize=(10.0, 1.6 + 0.36 * len(families)), layout="constrained")
    low = min(0.5, *(r["ratio"] for r in results)) * 0.8
    high = max(2.0, *(r["ratio"] for r in results)) * 1.2
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.axvspan(low, 1.0, color="0.95")
    axes.axvline(1.0, color="black", linewidth=0.8)
    for y, family in enumerate(families):
        ratios = sorted(r["ratio"] for r in results if r["family"] == family)
        heights = [y + 0.22 * ((7 * i) % 5 - 2) / 2 for i in range(len(ratios))]  # neighbours apart
        colours = ["tab:blue" if ratio >= 1 else "tab:red" for ratio in ratios]
        axes.scatter(ratios, heights, s=16, c=colours, alpha=0.6, linewidths=0, clip_on=False)
        middle = median(ratios)
        axes.plot([middle] * 2, [y - 0.36, y + 0.36], color="black", linewidth=2.0)
        fast = sum(ratio >= 1 for ratio in ratios)
        axes.text(
            1.01,
            y,
            f"{_times(middle)}   {fast} of {len(ratios)}",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
        )
    axes.text(
        1.01, -0.9, "median, at least 1x", transform=axes.get_yaxis_transform(), fontsize=8, color="0.4"
    )
    axes.set_yticks(range(len(families)), families)
    axes.set_ylim(len(families) - 0.4, -0.6)
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= t <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    machine = document["machine"]
    versions = machine["versions"]
    peer = f"torch {versions['torch']}" if "torch" in versions else "peer"
    figure.suptitle(
        f"Speed relative to {peer}: a dot is a case, right of 1x fastdl is faster\n{_headline(machine)}",
        fontsize=10,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio < 9.95 else f"{ratio:.0f}x"


def _plot_crossings(document: dict[str, Any], series: Sequence[str], path: str | Path) -> None:
    """A panel per series: time over size on the CPU and on the GPU, and where they cross."""
    import matplotlib.pyplot as plt

    across = min(3, len(series))
    down = -(-len(series) // across)
    figure, panels = plt.subplots(
        down, across, figsize=(4.6 * across, 3.4 * down + 0.6), layout="constrained", squeeze=False
    )
    for axes in panels.flat[len(series) :]:
        axes.set_visible(False)
    for axes, name in zip(panels.flat, series, strict=False):
        sizes, cpu, gpu = zip(*_points(document, name), strict=True)
        axes.loglog(sizes, cpu, "o-", label="CPU", color="tab:gray")
        axes.loglog(sizes, gpu, "o-", label="GPU", color="tab:green")
        at = crossing(sizes, cpu, gpu)
        if at is not None and at > sizes[0]:
            axes.axvline(at, color="black", linewidth=0.8)
            axes.annotate(f"{at:,.0f}", (at, axes.get_ylim()[1]), xytext=(4, -12), textcoords="offset points")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("elements")
        axes.set_ylabel("us, by the host's clock")
        axes.grid(color="0.9")
    panels.flat[0].legend()
    figure.suptitle(f"The same call on the CPU and on the GPU\n{_headline(document['machine'])}", fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)
