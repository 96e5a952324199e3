"""Accumulation, clipping, warm-up and cosine schedule, checkpoint and resume, autocast in bfloat16, GradScaler."""

import io

import torch
import torch.nn as nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({"a": nn.Linear(8, 16), "b": nn.Linear(16, 1)})
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        if self.training:
            self.steps += 1
        return self.layers["b"](torch.relu(self.layers["a"](x))) * self.scale


def build(prepare):
    model = prepare(Net())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    warmup = LinearLR(optimizer, start_factor=0.1, total_iters=2)
    scheduler = SequentialLR(
        optimizer, [warmup, CosineAnnealingLR(optimizer, T_max=6, eta_min=1e-4)], milestones=[2]
    )
    return model, optimizer, scheduler


def train(model, optimizer, scheduler, loader, epochs, log, accumulate=2):
    criterion = nn.MSELoss()
    for _ in range(epochs):
        optimizer.zero_grad(set_to_none=True)
        for i, (x, y) in enumerate(loader):
            loss = criterion(model(x), y) / accumulate
            loss.backward()
            if (i + 1) % accumulate == 0 or i + 1 == len(loader):
                norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
                optimizer.step()
                optimizer.zero_grad()
        scheduler.step()
        log(loss.item(), norm, scheduler.get_last_lr()[0])


def collate(batch):
    xs, ys = zip(*batch)
    return torch.stack(xs), torch.stack(ys).unsqueeze(1)


def main(log, prepare):
    x = torch.randn(30, 8)
    loader = DataLoader(TensorDataset(x, x.sum(1)), batch_size=6, collate_fn=collate)
    model, optimizer, scheduler = build(prepare)
    train(model, optimizer, scheduler, loader, 3, log)
    file = io.BytesIO()
    torch.save(
        {
            "epoch": 3,
            "model_state_dict": model.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "rng": torch.get_rng_state(),
        },
        file,
    )
    train(model, optimizer, scheduler, loader, 2, log)
    file.seek(0)
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    again, optimizer2, scheduler2 = build(prepare)
    missing, unexpected = again.load_state_dict(checkpoint["model_state_dict"], strict=True)
    assert not missing and not unexpected
    optimizer2.load_state_dict(checkpoint["optimizer_state_dict"])
    scheduler2.load_state_dict(checkpoint["scheduler"])
    torch.set_rng_state(checkpoint["rng"])
    train(again, optimizer2, scheduler2, loader, 2, log)
    for (name, a), b in zip(model.named_parameters(), again.parameters()):
        assert torch.equal(a, b), name
    assert again.steps.item() == model.steps.item() == 25
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    for xb, yb in loader:
        with torch.autocast(device_type="cpu", dtype=torch.bfloat16):
            out = again(xb)
            loss = torch.nn.functional.mse_loss(out.float(), yb)
        optimizer2.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer2)
        nn.utils.clip_grad_norm_(again.parameters(), 1.0)
        scaler.step(optimizer2)
        scaler.update()
    log.roughly(loss)
    assert out.dtype == torch.float32 or out.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for p in again.parameters())
