"""``AdaptiveLogSoftmaxWithLoss``: the output layer of models with very many classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastdl.nn.modules.container import ModuleList, Sequential
from fastdl.nn.modules.linear import Linear
from fastdl.nn.modules.module import Module
from fastdl.ops.gather import gather, index_copy, index_select
from fastdl.ops.join import cat
from fastdl.ops.softmax import log_softmax
from fastdl.tensor import Tensor

__all__ = ["AdaptiveLogSoftmaxWithLoss"]


class _Output(NamedTuple):
    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(Module):
    """An approximate softmax over many classes of unequal frequency. Grave, Joulin et al. (2017).

    The first ``cutoffs[0]`` classes (the most frequent) and one entry for each further cluster share the head; a
    cluster's classes share a softmax behind a projection to ``in_features / div_value**i`` features, which is computed
    only for the samples whose target is there. See ``torch.nn.AdaptiveLogSoftmaxWithLoss``.

    Args:
        cutoffs: where clusters begin, rising, between 1 and n_classes - 1.
        head_bias: whether the head has a bias.

    Shape: input (N, in_features) or (in_features), target (N) or (). Returns ``output``, each target's log
    probability, and ``loss``, their negative mean.

    Example:
        >>> import fastdl
        >>> layer = fastdl.nn.AdaptiveLogSoftmaxWithLoss(16, 100, cutoffs=[10, 50])
        >>> output, loss = layer(fastdl.randn(3, 16), fastdl.tensor([2, 70, 30]))
        >>> tuple(output.shape), tuple(layer.log_prob(fastdl.randn(3, 16)).shape)
        ((3,), (3, 100))
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        starts = list(cutoffs)
        if not starts or starts != sorted(set(starts)) or not 1 <= starts[0] <= starts[-1] <= n_classes - 1:
            raise ValueError(
                f"AdaptiveLogSoftmaxWithLoss: cutoffs must rise and lie between 1 and n_classes - 1 ({n_classes - 1}), "
                f"got {starts}"
            )
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = [*starts, n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = starts[0]
        self.n_clusters = len(starts)
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, bias=head_bias, device=device, dtype=dtype)
        self.tail = ModuleList()
        for i in range(self.n_clusters):
            hidden, classes = int(in_features // div_value ** (i + 1)), self.cutoffs[i + 1] - self.cutoffs[i]
            self.tail.append(
                Sequential(
                    Linear(in_features, hidden, bias=False, device=device, dtype=dtype),
                    Linear(hidden, classes, bias=False, device=device, dtype=dtype),
                )
            )

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        self.head.reset_parameters()
        for layer in self.tail.modules():
            if isinstance(layer, Linear):
                layer.reset_parameters()

    def forward(self, input: Tensor, target: Tensor) -> _Output:
        rows, labels = (input, target) if target.ndim else (input.unsqueeze(0), target.unsqueeze(0))
        if rows.ndim != 2 or labels.ndim != 1 or len(rows) != len(labels):
            raise RuntimeError(
                "AdaptiveLogSoftmaxWithLoss: input must be (N, in_features) and target (N), or (in_features) and (), "
                f"got {input.shape} and {target.shape}"
            )
        classes = labels.cpu().numpy()
        if classes.size and not 0 <= classes.min() <= classes.max() < self.n_classes:
            raise RuntimeError(
                f"AdaptiveLogSoftmaxWithLoss: targets must be in [0, {self.n_classes - 1}], got values from "
                f"{classes.min()} to {classes.max()}"
            )
        head = log_softmax(self.head(rows), 1)
        clusters = np.searchsorted(self.cutoffs, classes, "right")  # 0: the head itself
        entries = np.where(clusters == 0, classes, self.shortlist_size + clusters - 1)
        output = gather(head, 1, self._index(entries, labels).unsqueeze(1)).squeeze(1)
        for i, projection in enumerate(self.tail):
            here = np.flatnonzero(clusters == i + 1)
            if not here.size:
                continue
            places = self._index(here, labels)
            inside = index_select(labels, 0, places) - self.cutoffs[i]
            scores = log_softmax(projection(index_select(rows, 0, places)), 1)
            part = index_select(output, 0, places) + gather(scores, 1, inside.unsqueeze(1)).squeeze(1)
            output = index_copy(output, 0, places, part)
        loss = -output.mean()
        return _Output(output if target.ndim else output.squeeze(0), loss)

    @staticmethod
    def _index(places: Any, like: Tensor) -> Tensor:
        return Tensor._wrap(places.astype(np.int64)).to(like.device)

    def log_prob(self, input: Tensor) -> Tensor:
        """The logarithms of all classes' probabilities, (N, n_classes)."""
        head = log_softmax(self.head(input), 1)
        parts = [head[:, : self.shortlist_size]]
        for i, projection in enumerate(self.tail):
            chosen = head[:, self.shortlist_size + i].unsqueeze(1)
            parts.append(log_softmax(projection(input), 1) + chosen)
        return cat(parts, 1)

    def predict(self, input: Tensor) -> Tensor:
        """The most likely class of each sample, (N); clusters are computed only where one wins in the head."""
        best: Tensor = self.head(input).argmax(1)
        here = np.flatnonzero(best.cpu().numpy() >= self.shortlist_size)
        if not here.size:
            return best
        places = self._index(here, best)
        return index_copy(best, 0, places, self.log_prob(index_select(input, 0, places)).argmax(1))
