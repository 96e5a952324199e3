"""ResNet on images of three channels: BasicBlock, zero-initialised residuals, augmentation, mixup, OneCycle, EMA."""

import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split


def conv3x3(in_planes: int, out_planes: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_planes, out_planes, kernel_size=3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    expansion: int = 1

    def __init__(self, inplanes, planes, stride=1, downsample=None):
        super().__init__()
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, block, layers, num_classes=4, zero_init_residual=True):
        super().__init__()
        self.inplanes = 4
        self.conv1 = conv3x3(3, self.inplanes)
        self.bn1 = nn.BatchNorm2d(self.inplanes)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._make_layer(block, 4, layers[0])
        self.layer2 = self._make_layer(block, 8, layers[1], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * block.expansion, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)
        if zero_init_residual:
            for m in self.modules():
                if isinstance(m, BasicBlock) and m.bn2.weight is not None:
                    nn.init.constant_(m.bn2.weight, 0)

    def _make_layer(self, block, planes, blocks, stride=1):
        downsample = None
        if stride != 1 or self.inplanes != planes * block.expansion:
            downsample = nn.Sequential(
                nn.Conv2d(self.inplanes, planes, 1, stride, bias=False),
                nn.BatchNorm2d(planes * block.expansion),
            )
        layers = [block(self.inplanes, planes, stride, downsample)]
        self.inplanes = planes * block.expansion
        for _ in range(1, blocks):
            layers.append(block(self.inplanes, planes))
        return nn.Sequential(*layers)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class ModelEMA:
    def __init__(self, model, decay=0.9):
        self.module = copy.deepcopy(model)
        self.module.eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model):
        for ema_v, model_v in zip(self.module.state_dict().values(), model.state_dict().values()):
            if (
                ema_v.dtype.is_floating_point
                if hasattr(ema_v.dtype, "is_floating_point")
                else ema_v.is_floating_point()
            ):
                ema_v.copy_(self.decay * ema_v + (1.0 - self.decay) * model_v)


def augment(x):
    x = torch.flip(x, dims=(3,))
    x = F.pad(x, (2, 2, 2, 2), mode="reflect")
    return x[:, :, 1:13, 3:15]


def main(log, prepare):
    data = TensorDataset(torch.randn(40, 3, 12, 12), torch.arange(40) % 4)
    train, held = random_split(data, [32, 8], generator=torch.Generator().manual_seed(0))
    train, held = (
        Subset(data, range(32)),
        Subset(data, list(range(32, 40))),
    )  # the split differs between libraries
    loader = DataLoader(train, batch_size=8, num_workers=0, pin_memory=False)
    model = prepare(ResNet(BasicBlock, [1, 1]))
    ema = ModelEMA(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, steps_per_epoch=len(loader), epochs=2
    )
    mean, std = (
        torch.tensor([0.1, 0.0, -0.1]).view(1, 3, 1, 1),
        torch.tensor([1.0, 1.1, 0.9])[None, :, None, None],
    )
    for _epoch in range(2):
        model.train()
        for inputs, targets in loader:
            inputs = augment((inputs - mean) / std)
            index, lam = torch.arange(len(inputs) - 1, -1, -1), 0.7
            mixed = lam * inputs + (1 - lam) * inputs[index, :]
            outputs = model(mixed)
            loss = lam * F.cross_entropy(outputs, targets) + (1 - lam) * F.cross_entropy(
                outputs, targets[index]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            ema.update(model)
        log(loss, optimizer.param_groups[0]["lr"])
    model.eval()
    correct = total = 0
    with torch.no_grad():
        for inputs, targets in DataLoader(held, batch_size=3):
            outputs = model(inputs)
            _, predicted = outputs.max(1)
            total += targets.size(0)
            correct += predicted.eq(targets).sum().item()
            log(outputs.abs().sum(), ema.module(inputs).sum())
    log(100.0 * correct / total, model.bn1.running_var.sum(), int(model.bn1.num_batches_tracked))
