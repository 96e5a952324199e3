"""utils.training: what fit takes as batches and as validation, what it refuses, and what it shows."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.nn import functional as F
from fastdl.utils.data import DataLoader, IterableDataset, TensorDataset
from fastdl.utils.plots import plot_history
from fastdl.utils.training import History, evaluate, fit, progress_bar


def data(count=20):
    rng = np.random.default_rng(0)
    x = fastdl.from_numpy(rng.standard_normal((count, 3)).astype(np.float32))
    return x, (x[:, 0] > 0).long()


def trained(batches, **options):
    """History and final weights of one and the same small model."""
    fastdl.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = fastdl.optim.SGD(model.parameters(), lr=0.5)
    return fit(model, batches, optimizer, options.pop("epochs", 3), **options), model.weight.detach().numpy()


class Stream(IterableDataset):
    """Without a length."""

    def __iter__(self):
        yield from zip(*data(), strict=True)


def test_all_kinds_of_batches_train_alike():
    x, y = data()
    listed = [(x[i : i + 8], y[i : i + 8]) for i in (0, 8, 16)]
    expected, weights = trained(lambda: iter(listed), steps_per_epoch=3)
    assert len(expected.step_losses) == 9
    assert expected.epoch_losses[-1] < expected.epoch_losses[0]
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    for batches in (listed, loader, lambda: loader, lambda: iter(listed), DataLoader(Stream(), batch_size=8)):
        history, again = trained(batches)
        assert history.step_losses == expected.step_losses
        np.testing.assert_array_equal(again, weights)
    assert trained(iter(listed), epochs=1)[0].step_losses == expected.step_losses[:3]


def test_validation_by_a_pair_or_by_batches():
    x, y = data()
    loader = DataLoader(TensorDataset(x, y), batch_size=8)  # the last batch is smaller
    pair = trained(loader, validation=(x, y))[0]
    for validation in (loader, [(x[:19], y[:19]), (x[19:], y[19:])]):
        history = trained(loader, validation=validation)[0]
        assert history.accuracies == pytest.approx(pair.accuracies)
        assert history.validation_losses == pytest.approx(pair.validation_losses)
    assert len(pair.accuracies) == 3


def test_validation_of_a_regression_has_no_accuracy(tmp_path, capsys):
    x, _ = data()
    batches = [(x, x[:, :2])]
    history, _ = trained(batches, loss=F.mse_loss, validation=batches)
    assert history.accuracies == []
    assert len(history.validation_losses) == 3
    assert f"epoch 3/3: loss {history.epoch_losses[-1]:.3f}, validation " in capsys.readouterr().err
    pytest.importorskip("matplotlib")
    plot_history(history, tmp_path / "loss.png")


def test_epochs_means_are_drawn_in_their_middles(tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    close = plt.close
    monkeypatch.setattr(plt, "close", lambda figure: None)
    plot_history(History([4.0, 3.0, 2.0, 1.0], [3.5, 1.5], [2.5, 0.5]), tmp_path / "loss.png")
    _, training, validation = plt.gcf().axes[0].lines
    np.testing.assert_array_equal(training.get_xdata(), [1.5, 3.5])
    np.testing.assert_array_equal(validation.get_xdata(), [2, 4])
    close("all")


def test_refusals():
    x, y = data()
    generator = ((x, y) for _ in range(3))
    with pytest.raises(
        TypeError, match=r"batches is a generator, spent after one epoch.*function that returns"
    ):
        trained(generator)
    with pytest.raises(TypeError, match=r"validation is a generator, spent after one epoch.*list$"):
        trained([(x, y)], validation=generator)
    with pytest.raises(ValueError, match="no batches in epoch 2"):
        trained(lambda: generator)
    with pytest.raises(ValueError, match="no batches in epoch 1"):
        trained([])
    with pytest.raises(ValueError, match="evaluate: there are no batches"):
        evaluate(nn.Linear(3, 2), [])
    with pytest.raises(TypeError, match=r"all data at once.*DataLoader"):
        trained((x, y))
    with pytest.raises(TypeError, match=r"fit: a dataset has samples; DataLoader\(dataset"):
        trained(TensorDataset(x, y))
    with pytest.raises(TypeError, match=r"evaluate: a dataset has samples; DataLoader\(dataset"):
        trained([(x, y)], validation=TensorDataset(x, y))
    with pytest.raises(FloatingPointError, match="epoch 1, step 2"):
        trained([(x, y), (x * np.inf, y)])


def test_bar_only_on_a_terminal(monkeypatch):
    """tqdm redraws its bar many times a second: a log would be full of it."""
    pytest.importorskip("tqdm")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, drawn in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        bar = progress_bar(2, "epoch 1/1")
        bar.update()
        bar.set_postfix_str("loss 0.5")
        bar.close()
        assert ("\r" in stream.getvalue()) == drawn
        assert "loss 0.5" in stream.getvalue()
