"""Models of images: torchvision's keys and sizes, and a step of training that follows the same code under PyTorch."""

from __future__ import annotations

import hashlib
import inspect
import pickle
from inspect import isfunction

import numpy as np
import pytest

import fastdl
from fastdl import models
from fastdl.bench.case import Library

# name -> number of parameters, and a digest of the state dict's keys and shapes, both of torchvision 0.29.
PUBLISHED = {
    "alexnet": (61_100_840, "9c198ebdae1863e4"),
    "vgg11": (132_863_336, "cb3dc23f2a13e182"),
    "vgg16_bn": (138_365_992, "347371586a8ea365"),
    "resnet18": (11_689_512, "84fb10d9c6905a1c"),
    "resnet50": (25_557_032, "d7e4f8bb0a536344"),
    "resnext50_32x4d": (25_028_904, "e3bad165c034e60f"),
    "densenet121": (7_978_856, "aa0fd9923b0003b8"),
    "mobilenet_v2": (3_504_872, "37bbbce8932fd0c4"),
    "vit_b_32": (88_224_232, "f8bc3a1f2fd0c4c4"),
    "convnext_tiny": (28_589_128, "2bc10f3450aaa086"),
}

# AlexNet and VGG are rows of layers, and large however they are made: their keys and docstrings' examples say enough.
SMALL = {
    "resnet": lambda m: m.ResNet(m.BasicBlock, (1, 1, 1, 1), num_classes=3, zero_init_residual=True),
    "resnext": lambda m: m.ResNet(m.Bottleneck, (1, 1, 1, 1), num_classes=3, groups=4, width_per_group=4),
    "densenet": lambda m: m.DenseNet(4, (2, 1, 2, 1), 8, num_classes=3),
    "mobilenet": lambda m: m.MobileNetV2(num_classes=3, width_mult=0.2, dropout=0),
    "vit": lambda m: m.VisionTransformer(64, 16, 2, 2, 16, 32, num_classes=3),
    "convnext": lambda m: m.ConvNeXt((8, 12, 16, 20), (1, 1, 2, 1), layer_scale=0.1, num_classes=3),
    "unet": lambda m: m.UNet(3, 2, width=4, depth=3),
    "lenet": lambda m: m.LeNet5(3, size=64),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_shapes_and_sizes_are_torchvisions(name):
    parameters, digest = PUBLISHED[name]
    model = getattr(models, name)()
    assert sum(p.numel() for p in model.parameters()) == parameters
    text = "\n".join(f"{k} {tuple(v.shape)}" for k, v in model.state_dict().items())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("name", SMALL)
def test_training_follows_torch(name):
    """The same sources run by PyTorch, in which nothing but the library's name changes."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    peer = SMALL[name](Library("torch").models).double()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # also where a model begins with zeros
    ours = SMALL[name](models).double()
    ours.load_state_dict({k: fastdl.from_numpy(v.numpy().copy()) for k, v in peer.state_dict().items()})
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 1 if name == "lenet" else 3, 64, 64))
    for library, model in ((torch, peer), (fastdl, ours)):
        y = model(library.from_numpy(images))
        (y * y).mean().backward()
        library.optim.SGD(model.parameters(), lr=0.1).step()
    model_y = [
        m.eval()(lib.from_numpy(images)).detach().numpy() for lib, m in ((torch, peer), (fastdl, ours))
    ]
    np.testing.assert_allclose(model_y[1], model_y[0], rtol=1e-7, atol=1e-9 * np.abs(model_y[0]).max())
    for (key, a), (other, b) in zip(ours.state_dict().items(), peer.state_dict().items(), strict=True):
        assert key == other
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6, atol=1e-9, err_msg=key)


def test_blocks_are_left_out_at_random_in_training_only():
    fastdl.manual_seed(0)
    model = models.ConvNeXt((8, 8, 8, 8), (1, 1, 1, 1), stochastic_depth_prob=1.0, layer_scale=1.0)
    last = model.features[7][0]
    x = fastdl.randn(2, 8, 4, 4)
    assert fastdl.equal(last(x), x)
    assert not fastdl.equal(last.eval()(x), x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.VisionTransformer(30, 8, 1, 1, 8, 8), "multiple of patch_size, got 30 and 8"),
        (lambda: models.vit_b_32(num_classes=2)(fastdl.zeros(1, 3, 64, 64)), "must be 224 x 224"),
        (lambda: models.UNet(1, 1, 4, 2)(fastdl.zeros(1, 1, 6, 8)), "multiples of 4"),
        (lambda: models.UNet(1, 1, 4, 0), "depth must be at least 1"),
        (lambda: models.ResNet(models.BasicBlock, (1, 1, 1, 1), groups=2), "groups must be 1"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_weights_are_not_shipped_and_the_error_says_where_to_find_them():
    names = [name for name, value in vars(models).items() if isfunction(value)]
    assert len(names) == 26
    for name in names:
        for asked in ({"weights": "DEFAULT"}, {"pretrained": True}):
            with pytest.raises(ValueError, match=rf"{name}: no weights .*{name}\.pth.*_from_url"):
                getattr(models, name)(**asked)
    assert pickle.loads(pickle.dumps(models.resnet18)) is models.resnet18
    assert models.resnet18(weights=None, progress=False, num_classes=2).fc.out_features == 2
    assert models.mobilenet_v2(pretrained=False, width_mult=0.2).classifier[1].out_features == 1000
    assert models.vit_b_32(64, num_classes=2).image_size == 64


def test_the_signature_says_which_arguments_weights_have():
    names = {"weights", "pretrained", "progress"}
    assert set(inspect.signature(models.resnet18).parameters) == names | {"options"}
    assert set(inspect.signature(models.vit_b_32).parameters) == names | {"image_size", "options"}
    arguments = inspect.signature(models.vit_b_32).bind(64, weights=None, num_classes=2).arguments
    assert arguments == {"image_size": 64, "weights": None, "options": {"num_classes": 2}}
