"""Results for people: a terminal line per case, a Markdown table, a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HEADER = f"{'case':44} {'':4} {'fastdl us':>11} {'peer us':>11} {'ratio':>7} {'tcm.':>7} {'limit':>6}  target"


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
    return (
        f"{result['case']:44} {result['mode']:4} {number(result['fastdl_us'], '.1f'):>11} "
        f"{number(result['peer_us'], '.1f'):>11} {number(result['ratio'], '.2f'):>7} "
        f"{number(result['ratio_tcmalloc'], '.2f'):>7} {number(result['fraction'], '.0%'):>6}  {target}{memory}"
    )


def markdown(document: dict[str, Any]) -> str:
    """The whole document as Markdown, a table per family."""
    machine = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = [
        "# Results\n",
        f"{machine['cpu']}, level {machine['level']}, {machine['threads']} threads; measured limits "
        f"{machine['gflops']:.0f} GFLOP/s and {machine['gbs']:.0f} GB/s; {versions}; {machine['date']}.\n",
        "Medians in microseconds, each library in its own process, sampled in turn. `ratio` is torch's time over "
        "fastdl's (above 1 fastdl is faster); the next column is the same with torch on tcmalloc; `limit` is the "
        "fraction of this machine's arithmetic or bandwidth limit; f = forward, fb = forward and backward. MB: the "
        "most memory that one call holds at once beside its inputs, fastdl's by its allocator's count, torch's by the "
        "growth of its process.\n",
    ]
    names = list(dict.fromkeys(r["family"] for r in document["results"]))
    for name in names:
        rows = [r for r in document["results"] if r["family"] == name]
        memory = any(r.get("fastdl_mb") is not None for r in rows)
        more = " fastdl MB | torch MB |" if memory else ""
        parts.append(f"\n## {name}\n\n| case | | fastdl | torch | ratio | tcmalloc | limit | target |{more}")
        parts.append("|---|---|---:|---:|---:|---:|---:|---:|" + "---:|---:|" * memory)
        parts += [_row(r, memory) for r in rows]
    return "\n".join(parts) + "\n"


def _row(r: dict[str, Any], memory: bool) -> str:
    def cell(value: float | None, format_: str) -> str:
        return "" if value is None else format(value, format_)

    ratio = cell(r["ratio"], ".2f")
    if r["target"] and r["ratio"] is not None and r["ratio"] < r["target"]:
        ratio += " (missed)"
    return (
        f"| {r['case']} | {r['mode']} | {cell(r['fastdl_us'], ',.1f')} | {cell(r['peer_us'], ',.1f')} | {ratio} | "
        f"{cell(r['ratio_tcmalloc'], '.2f')} | {cell(r['fraction'], '.0%')} | {cell(r['target'], '.2f')} |"
        + (f" {cell(r.get('fastdl_mb'), '.1f')} | {cell(r.get('peer_mb'), '.1f')} |" if memory else "")
    )


def plot(document: dict[str, Any], path: str | Path) -> None:
    """A bar per case: how many times faster than the peer, on a logarithmic axis, families in colours of their own."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    results = [r for r in document["results"] if r["ratio"] is not None]
    if not results:
        raise ValueError("plot: no case was measured against a peer; run with --against torch")
    families = list(dict.fromkeys(r["family"] for r in results))
    palette = plt.get_cmap("tab20")
    rows: list[tuple[str, dict[str, Any] | None]] = []
    for family in families:
        rows.append((family, None))
        rows += [(family, r) for r in results if r["family"] == family]
    columns = _columns(rows)
    tallest = max(len(column) for column in columns)
    figure, panels = plt.subplots(
        1,
        len(columns),
        figsize=(7.0 * len(columns), 1.0 + 0.235 * tallest),
        layout="constrained",
        squeeze=False,
    )
    low = min(0.5, *(r["ratio"] for r in results)) * 0.8
    high = max(2.0, *(r["ratio"] for r in results)) * 1.6
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
    for axes, column in zip(panels[0], columns, strict=True):
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        for y, (family, r) in enumerate(column):
            if r is None:
                place = axes.get_yaxis_transform()
                axes.text(0.005, y, family, transform=place, va="center", fontweight="bold", color="0.25")
            else:
                _bar(axes, y, r, palette(families.index(family) % 20))
        axes.set_yticks(
            [y for y, (_, r) in enumerate(column) if r is not None],
            [f"{r['case']}  {r['mode']}" for _, r in column if r is not None],
            fontsize=8,
        )
        axes.set_ylim(tallest - 0.4, -0.6)
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    machine = document["machine"]
    peer = next(
        (f"{n} {v}" for n, v in machine["versions"].items() if n not in ("fastdl", "numpy", "python")), "peer"
    )
    figure.suptitle(
        f"Speed relative to {peer} (right of 1x: fastdl is faster; black mark: the project's goal)\n"
        f"{machine['cpu']}, {machine['threads']} threads",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _columns(rows: list[tuple[str, Any]], most: int = 72) -> list[list[tuple[str, Any]]]:
    """Rows in columns of about ``most``, broken between families where that is near."""
    columns: list[list[tuple[str, Any]]] = [[]]
    for i, row in enumerate(rows):
        family_length = sum(1 for other in rows[i:] if other[0] == row[0])
        starts = row[1] is None
        full = len(columns[-1]) >= most
        if columns[-1] and (full or (starts and len(columns[-1]) + family_length > most + 8)):
            columns.append([])
        columns[-1].append(row)
    return columns


def _bar(axes: Any, y: int, r: dict[str, Any], colour: Any) -> None:
    left, width = (1.0, r["ratio"] - 1.0) if r["ratio"] >= 1 else (r["ratio"], 1.0 - r["ratio"])
    axes.barh(y, width, left=left, height=0.72, color=colour)
    label = f"{r['ratio']:.2g}x" if r["ratio"] < 9.95 else f"{r['ratio']:.0f}x"
    axes.text(max(r["ratio"], 1.0) * 1.04, y, label, va="center", fontsize=8)
    if r["target"]:
        axes.plot([r["target"]] * 2, [y - 0.4, y + 0.4], color="black", linewidth=1.4)
