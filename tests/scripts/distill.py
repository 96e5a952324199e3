"""Knowledge distillation, SWA and EMA by swa_utils, early stopping, ReduceLROnPlateau, class weights, F1 by hand."""

import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler


def mlp(width):
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.Hardswish(), nn.Linear(width, 3))


def distillation_loss(student, teacher, labels, T=4.0, alpha=0.7):
    soft = F.kl_div(
        F.log_softmax(student / T, dim=1), F.softmax(teacher / T, dim=1), reduction="batchmean"
    ) * (T * T)
    return alpha * soft + (1.0 - alpha) * F.cross_entropy(student, labels)


class EarlyStopping:
    def __init__(self, patience=2):
        self.patience, self.best, self.bad = patience, None, 0
        self.weights = None

    def __call__(self, value, model):
        if self.best is None or value < self.best:
            self.best, self.bad = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.bad += 1
        return self.bad >= self.patience


def f1(pred, true, classes=3):
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    for t, p in zip(true.view(-1), pred.view(-1)):
        confusion[t.long(), p.long()] += 1
    tp = confusion.diag().float()
    precision, recall = tp / confusion.sum(0).clamp(min=1), tp / confusion.sum(1).clamp(min=1)
    return (2 * precision * recall / (precision + recall + 1e-8)).mean()


def main(log, prepare):
    x = torch.randn(48, 6)
    y = (x[:, :3] + 0.1 * torch.randn(48, 3)).argmax(1)
    weights = 1.0 / torch.bincount(y).float()[y]
    assert len(list(WeightedRandomSampler(weights, 10))) == 10
    loader = DataLoader(TensorDataset(x, y), batch_size=12)
    teacher, student = prepare(mlp(12)), prepare(mlp(4))
    optimizer = torch.optim.RAdam(teacher.parameters(), lr=0.02)
    plateau = ReduceLROnPlateau(optimizer, mode="min", factor=0.5, patience=0)
    for _ in range(3):
        total = 0.0
        for xb, yb in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(teacher(xb), yb)
            loss.backward()
            optimizer.step()
            total += loss.item() * xb.size(0)
        plateau.step(total)
        log(total / len(x), optimizer.param_groups[0]["lr"])
    teacher.eval()
    for p in teacher.parameters():
        p.requires_grad = False
    swa_model = AveragedModel(student)
    ema_model = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    scheduler = CosineAnnealingLR(optimizer, T_max=4)
    swa_scheduler = SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
    stop = EarlyStopping()
    for epoch in range(5):
        for xb, yb in loader:
            with torch.no_grad():
                soft = teacher(xb)
            loss = distillation_loss(student(xb), soft, yb)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema_model.update_parameters(student)
        if epoch > 2:
            swa_model.update_parameters(student)
            swa_scheduler.step()
        else:
            scheduler.step()
        log(loss, optimizer.param_groups[0]["lr"])
        if stop(loss.item(), student):
            break
    update_bn(loader, swa_model)
    student.load_state_dict(stop.weights)
    for model in (student, swa_model, ema_model):
        model.eval()
        out = model(x)
        log(out.abs().sum(), f1(out.argmax(1), y))
