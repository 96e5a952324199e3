"""The sea's temperature off Peru a season ahead: a recurrent network beside linear regression.

    python examples/forecast.py               some seconds: trains, compares, draws
    python examples/forecast.py --ahead 6     half a year ahead

Many to one: an LSTM reads the last 24 months and says the temperature three months later. What it has to beat are the
rules that need no network: the last value again, the mean of that month of the year, and above all the best linear
function of the same 24 months (autoregression), which least squares finds in closed form.

The years are split in time, as a forecaster meets them: models learn from 1950-1984; how long to train is chosen by the
error on 1985-1996; the errors reported are those on 1997-2010, which nothing was fitted to or chosen by. (The strongest
El Nino of the record, 1997-98, lies in these years.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import common
import fastdl
from fastdl import nn
from fastdl.nn import functional as F

SERIES = Path(__file__).parent / "data" / "sea_surface_temperature.csv"
VALIDATION, TEST = 1985.0, 1997.0  # the years that these parts begin with

Array = np.ndarray[Any, Any]


class Forecaster(nn.Module):
    """Windows (B, window) -> the value to come, as its difference from the last one (B,)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, size, batch_first=True)
        self.head = nn.Linear(size, 1)

    def forward(self, windows: fastdl.Tensor) -> fastdl.Tensor:
        outputs, _ = self.lstm(windows.unsqueeze(-1))
        return windows[:, -1] + self.head(outputs[:, -1]).squeeze(-1)


def read_series() -> tuple[Array, Array]:
    """Dates as years with a fraction, and temperatures."""
    with open(SERIES) as file:
        next(file)  # names of the columns
        rows = [line.strip().split(",") for line in file]
    dates = np.array([int(date[:4]) + (int(date[5:]) - 1) / 12 for date, _ in rows])
    return dates, np.array([float(value) for _, value in rows])


def autoregression(windows: Array, targets: Array, training: Array) -> Array:
    """Least squares on the training part: the best w of windows @ w + b. Returns its forecasts for all windows."""
    design = np.column_stack([windows, np.ones(len(windows))])
    weights, *_ = np.linalg.lstsq(design[training], targets[training], rcond=None)
    forecast: Array = design @ weights
    return forecast


def monthly_means(values: Array, dates: Array, training: Array) -> Array:
    """For each date the mean of its month of the year in the training part."""
    months = np.round(dates * 12).astype(int) % 12
    means = np.array([values[training & (months == m)].mean() for m in range(12)])
    return means[months]


def rmse(forecast: Array, truth: Array, part: Array) -> float:
    return float(np.sqrt(np.mean((forecast[part] - truth[part]) ** 2)))


def train(
    windows: Array, targets: Array, parts: dict[str, Array], options: Any
) -> tuple[Array, list[float], list[tuple[int, float]]]:
    """Forecasts of the network with the weights that did best on the validation part, and losses.

    The losses are squared errors: of each step, and of each epoch, with its step, on the validation part.
    """
    inputs = fastdl.from_numpy(windows.astype(np.float32))
    wanted = fastdl.from_numpy(targets.astype(np.float32))
    numbers = fastdl.from_numpy(np.flatnonzero(parts["training"]))
    model = Forecaster(options.size)
    optimizer = fastdl.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.01)
    losses: list[float] = []
    validation: list[tuple[int, float]] = []
    best, forecast = np.inf, targets
    order: list[fastdl.Tensor] = []
    progress = common.Progress(0, options.steps)
    for step in progress:
        if not order:  # a new epoch
            order = list(numbers[fastdl.randperm(len(numbers))].split(options.batch))
        batch = order.pop()
        # A little noise on the inputs: there are only some hundred windows, and this makes them hard to learn by heart.
        noisy = inputs[batch] + options.noise * fastdl.randn(len(batch), windows.shape[1])
        loss = F.mse_loss(model(noisy), wanted[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not order or step == options.steps:
            with fastdl.no_grad():
                now = model(inputs).numpy()
            error = rmse(now, targets, parts["validation"])
            validation.append((step, error**2))
            if error < best:
                best, forecast = error, now
            progress.show(f"validation {error:.3f}, best {best:.3f}")
    return forecast, losses, validation


def plot(
    dates: Array, truth: Array, forecasts: dict[str, Array], errors: dict[str, float], path: Path
) -> list[Path]:
    """The test years: truth and forecasts above, what each forecast missed by below."""
    plt = common.pyplot()
    if plt is None:
        return []
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(10, 5.6), height_ratios=(2, 1), sharex=True, layout="constrained"
    )
    above.plot(dates, truth, color="black", linewidth=1.6, label="truth")
    for (name, forecast), colour in zip(forecasts.items(), ("tab:orange", "tab:blue"), strict=True):
        label = f"{name} (off by {errors[name]:.2f} \u00b0C)"
        above.plot(dates, forecast, color=colour, linewidth=1.1, label=label)
        below.plot(dates, forecast - truth, color=colour, linewidth=1.1)
    above.set_ylabel("sea surface, \u00b0C")
    above.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    below.axhline(0, color="black", linewidth=0.8)
    below.set_ylabel("forecast \u2212 truth")
    below.set_xlim(dates[0], dates[-1])
    for axes in (above, below):
        common.bare_frame(axes)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return [path]


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, compare, draw; returns the errors on the test years by name."""
    parser = common.parser(__doc__, "fastdl-forecast", steps=1500, resume=False)
    parser.add_argument("--ahead", type=int, default=3, help="months from the last known one (default: 3)")
    parser.add_argument("--window", type=int, default=24, help="months to look back at (default: 24)")
    parser.add_argument("--size", type=int, default=32, help="hidden units (default: 32)")
    parser.add_argument("--batch", type=int, default=32, help="windows per step (default: 32)")
    parser.add_argument("--lr", type=float, default=5e-3, help="learning rate (default: 0.005)")
    parser.add_argument("--noise", type=float, default=0.05, help="on the inputs (default: 0.05 deviations)")
    options = parser.parse_args(arguments)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    fastdl.manual_seed(options.seed)

    dates, values = read_series()
    known = dates < VALIDATION  # also the scale of the numbers is learned from these years only
    mean, deviation = values[known].mean(), values[known].std()
    series = (values - mean) / deviation
    first = options.window + options.ahead - 1  # the first month that can be forecast
    windows = np.lib.stride_tricks.sliding_window_view(series, options.window)[: len(series) - first]
    targets, when = series[first:], dates[first:]
    parts = {
        "training": when < VALIDATION,
        "validation": (when >= VALIDATION) & (when < TEST),
        "test": when >= TEST,
    }
    print(", ".join(f"{part.sum()} months {name}" for name, part in parts.items()))

    network, losses, validation = train(windows, targets, parts, options)
    forecasts = {
        "the last value again": windows[:, -1],
        "mean of the month": monthly_means(series, dates, known)[first:],
        "linear regression": autoregression(windows, targets, parts["training"]),
        "LSTM": network,
    }
    forecasts = {name: f * deviation + mean for name, f in forecasts.items()}
    truth = targets * deviation + mean
    print(f"\nroot mean square error in degrees, {options.ahead} month(s) ahead")
    print(f"{'':22}{'training':>12}{'validation':>12}{'test':>12}")
    for name, forecast in forecasts.items():
        print(f"{name:22}" + "".join(f"{rmse(forecast, truth, part):12.3f}" for part in parts.values()))
    errors = {name: rmse(forecast, truth, parts["test"]) for name, forecast in forecasts.items()}

    test = parts["test"]
    shown = {name: forecasts[name][test] for name in ("linear regression", "LSTM")}
    pictures = plot(when[test], truth[test], shown, errors, folder / "forecast.png")
    pictures += common.plot_losses(
        losses, validation, folder / "loss.png", "squared error (deviations)", "validation years", log=True
    )
    common.report_written(folder, pictures)
    return errors


if __name__ == "__main__":
    main()
