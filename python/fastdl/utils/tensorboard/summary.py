"""The protocol buffers of TensorBoard's plugins, from arrays; see ``torch.utils.tensorboard.summary``."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

from fastdl.errors import ArgumentError, warn_caller
from fastdl.tensor import Tensor
from fastdl.utils.tensorboard.arrays import as_array, bytes_of_image

__all__ = [
    "audio",
    "histogram",
    "histogram_raw",
    "hparams",
    "image",
    "pr_curve",
    "pr_curve_raw",
    "scalar",
    "text",
]


def _plugin(name: str, content: bytes = b"") -> Any:
    return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=name, content=content))


def _summary(tag: str, **fields: Any) -> Any:
    return Summary(value=[Summary.Value(tag=tag, **fields)])


def _shape(*sizes: int) -> Any:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def scalar(
    name: str, tensor: Any, collections: Any = None, new_style: bool = False, double_precision: bool = False
) -> Any:
    """One number."""
    array = as_array("add_scalar", "scalar_value", tensor).squeeze()
    if array.ndim:
        raise ArgumentError(
            f"add_scalar: scalar_value must be one number, got shape {array.shape}; use .mean() or add_histogram"
        )
    number = float(array)
    if not new_style:
        return _summary(name, simple_value=number)
    if double_precision:
        value = TensorProto(double_val=[number], dtype="DT_DOUBLE")
    else:
        value = TensorProto(float_val=[number], dtype="DT_FLOAT")
    return _summary(name, tensor=value, metadata=_plugin("scalars"))


def tensor_proto(tag: str, tensor: Any) -> Any:
    """A tensor as it is."""
    from tensorboard.util.tensor_util import make_tensor_proto

    value = make_tensor_proto(as_array("add_tensor", "tensor", tensor))
    return _summary(tag, tensor=value, metadata=_plugin("tensor"))


@cache
def _default_edges() -> Any:
    """Bins that grow by a tenth, on both sides of 0."""
    positive = []
    edge = 1e-12
    while edge < 1e20:
        positive.append(edge)
        edge *= 1.1
    return np.array([*[-x for x in reversed(positive)], 0.0, *positive])


def histogram(name: str, values: Any, bins: Any = "tensorflow", max_bins: int | None = None) -> Any:
    """How values are distributed. Only bins from the first to the last that hold one are stored."""
    array = as_array("add_histogram", "values", values).astype(float).ravel()
    if array.size == 0:
        raise ArgumentError("add_histogram: values must hold at least one number, got none")
    if not np.isfinite(array).all():
        raise ArgumentError("add_histogram: values must be finite, got NaN or infinity; use x[x.isfinite()]")
    counts, edges = np.histogram(array, bins=_default_edges() if bins == "tensorflow" else bins)
    if max_bins is not None and len(counts) > max_bins:
        merged = len(counts) // max_bins
        counts = np.add.reduceat(counts, np.arange(0, len(counts), merged))
        edges = np.append(edges[:-1][::merged], edges[-1])
    held = np.nonzero(counts)[0]
    if held.size == 0:
        raise ArgumentError("add_histogram: no value lies in a bin; use other bins")
    first, last = held[0], held[-1]
    # A bin has no left edge in the file: that of the first is the limit of an empty one before it.
    return histogram_raw(
        name,
        array.min(),
        array.max(),
        len(array),
        array.sum(),
        array.dot(array),
        edges[first : last + 2],
        [0, *counts[first : last + 1]],
    )


def histogram_raw(
    name: str,
    min: float,
    max: float,
    num: float,
    sum: float,
    sum_squares: float,
    bucket_limits: Iterable[float],
    bucket_counts: Iterable[float],
) -> Any:
    """A histogram that was counted elsewhere: upper limits of bins, and how many values each holds."""
    made = HistogramProto(
        min=min,
        max=max,
        num=num,
        sum=sum,
        sum_squares=sum_squares,
        bucket_limit=bucket_limits,
        bucket=bucket_counts,
    )
    return _summary(name, histo=made)


def encoded(pixels: Any) -> bytes:
    """A PNG file of pixels (height, width, channels) in uint8."""
    from PIL import Image

    output = io.BytesIO()
    Image.fromarray(pixels).save(output, format="PNG")
    return output.getvalue()


def image(tag: str, tensor: Any, rescale: float = 1, dataformats: str = "NCHW") -> Any:
    """An image, or several in a grid."""
    pixels = bytes_of_image(as_array("add_image", "img_tensor", tensor), dataformats, "add_image")
    if rescale != 1:
        from PIL import Image

        size = int(pixels.shape[1] * rescale), int(pixels.shape[0] * rescale)
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    height, width, channels = pixels.shape
    made = Summary.Image(
        height=height, width=width, colorspace=channels, encoded_image_string=encoded(pixels)
    )
    return _summary(tag, image=made)


def audio(tag: str, tensor: Any, sample_rate: int = 44100) -> Any:
    """Sound of one channel, numbers from -1 to 1."""
    samples = as_array("add_audio", "snd_tensor", tensor).squeeze()
    if samples.ndim != 1:
        raise ArgumentError(f"add_audio: snd_tensor must be one channel, (1, L) or (L,), got {samples.shape}")
    if np.abs(samples).max(initial=0) > 1:
        warn_caller("add_audio: snd_tensor goes beyond -1 .. 1 and is cut off there")
    output = io.BytesIO()
    with wave.open(output, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    made = Summary.Audio(
        sample_rate=sample_rate,
        num_channels=1,
        length_frames=samples.shape[-1],
        encoded_audio_string=output.getvalue(),
        content_type="audio/wav",
    )
    return _summary(tag, audio=made)


def text(tag: str, text: str) -> Any:
    """Words, shown as Markdown."""
    from tensorboard.plugins.text.plugin_data_pb2 import TextPluginData

    value = TensorProto(dtype="DT_STRING", string_val=[text.encode(encoding="utf_8")], tensor_shape=_shape(1))
    metadata = _plugin("text", TextPluginData(version=0).SerializeToString())
    return _summary(f"{tag}/text_summary", metadata=metadata, tensor=value)


def pr_curve(tag: str, labels: Any, predictions: Any, num_thresholds: int = 127, weights: Any = None) -> Any:
    """Precision and recall of a classifier of two classes at thresholds from 0 to 1."""
    count = min(num_thresholds, 127)  # TensorBoard shows no more
    labels = as_array("add_pr_curve", "labels", labels).ravel().astype(float)
    predictions = as_array("add_pr_curve", "predictions", predictions).ravel()
    if labels.shape != predictions.shape:
        raise ArgumentError(
            f"add_pr_curve: labels and predictions must be of one size, got {labels.size} and {predictions.size}"
        )
    weighed = 1.0 if weights is None else as_array("add_pr_curve", "weights", weights).ravel()
    at = np.floor(predictions * (count - 1)).astype(np.int64)
    inside = (at >= 0) & (at < count)

    def above(amounts: Any) -> Any:
        """Summed amounts of what was predicted at least as likely as each threshold."""
        each = np.bincount(at[inside], np.broadcast_to(amounts, at.shape)[inside], count)
        return each[::-1].cumsum()[::-1]

    true, false = above(labels * weighed), above((1.0 - labels) * weighed)
    missed, refused = true[0] - true, false[0] - false
    precision = true / np.maximum(1e-7, true + false)
    recall = true / np.maximum(1e-7, true + missed)
    return pr_curve_raw(tag, true, false, refused, missed, precision, recall, count)


def pr_curve_raw(
    tag: str,
    tp: Any,
    fp: Any,
    tn: Any,
    fn: Any,
    precision: Any,
    recall: Any,
    num_thresholds: int = 127,
    weights: Any = None,
) -> Any:
    """The same, counted elsewhere."""
    from tensorboard.plugins.pr_curve.plugin_data_pb2 import PrCurvePluginData

    count = min(num_thresholds, 127)
    data = np.stack(
        [as_array("add_pr_curve_raw", "counts", row) for row in (tp, fp, tn, fn, precision, recall)]
    )
    content = PrCurvePluginData(version=0, num_thresholds=count).SerializeToString()
    value = TensorProto(dtype="DT_FLOAT", float_val=data.ravel().tolist(), tensor_shape=_shape(*data.shape))
    return _summary(tag, metadata=_plugin("pr_curves", content), tensor=value)


def hparams(
    hparam_dict: dict[str, Any] | None = None,
    metric_dict: dict[str, Any] | None = None,
    hparam_domain_discrete: dict[str, list[Any]] | None = None,
) -> tuple[Any, Any, Any]:
    """What an experiment varies, with which values this session starts, and that it ended: three summaries."""
    from google.protobuf.struct_pb2 import ListValue, Value
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    domains = hparam_domain_discrete or {}
    for name, given in (
        ("hparam_dict", hparam_dict),
        ("metric_dict", metric_dict),
        ("hparam_domain_discrete", domains),
    ):
        if not isinstance(given, dict):
            raise TypeError(f"add_hparams: {name} must be a dict, got {type(given).__name__}")
    assert hparam_dict is not None
    assert metric_dict is not None
    for name, domain in domains.items():
        kind = type(hparam_dict.get(name))
        if (
            name not in hparam_dict
            or not isinstance(domain, list)
            or not all([isinstance(v, kind) for v in domain])
        ):
            raise TypeError(
                f"add_hparams: hparam_domain_discrete[{name!r}] must be a list of values of the type of hparam_dict"
                f"[{name!r}], got {domain!r}"
            )
    start = plugin_data_pb2.SessionStartInfo()
    infos = []
    for name, value in hparam_dict.items():
        if value is None:
            continue
        if isinstance(value, (Tensor, np.ndarray, np.generic)):
            value = value.item()
        if isinstance(value, str):
            field, shown = "string_value", "DATA_TYPE_STRING"
        elif isinstance(value, (int, float)):
            field, shown = "number_value", "DATA_TYPE_FLOAT64"
        else:
            raise ArgumentError(
                f"add_hparams: hparam_dict[{name!r}] must be a number, a str, a bool or a Tensor of one number, got "
                f"{type(value).__name__}; use str(x)"
            )
        setattr(start.hparams[name], field, value)
        known = domains.get(name)
        values = None if known is None else ListValue(values=[Value(**{field: v}) for v in known])
        infos.append(
            api_pb2.HParamInfo(name=name, type=api_pb2.DataType.Value(shown), domain_discrete=values)
        )
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=name)) for name in metric_dict]
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.Status.Value("STATUS_SUCCESS"))
    made = []
    for tag, content in (
        (
            metadata.EXPERIMENT_TAG,
            {"experiment": api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics)},
        ),
        (metadata.SESSION_START_INFO_TAG, {"session_start_info": start}),
        (metadata.SESSION_END_INFO_TAG, {"session_end_info": end}),
    ):
        data = plugin_data_pb2.HParamsPluginData(**content, version=metadata.PLUGIN_DATA_VERSION)
        made.append(_summary(tag, metadata=_plugin(metadata.PLUGIN_NAME, data.SerializeToString())))
    return made[0], made[1], made[2]
