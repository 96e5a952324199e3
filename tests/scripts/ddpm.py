"""Diffusion: a small UNet with sinusoidal time embeddings and attention, the noise schedule, sampling backwards."""

import math

import torch
import torch.nn.functional as F
from torch import einsum, nn


def exists(x):
    return x is not None


class SinusoidalPositionEmbeddings(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, time):
        device = time.device
        half_dim = self.dim // 2
        embeddings = math.log(10000) / (half_dim - 1)
        embeddings = torch.exp(torch.arange(half_dim, device=device) * -embeddings)
        embeddings = time[:, None] * embeddings[None, :]
        return torch.cat((embeddings.sin(), embeddings.cos()), dim=-1)


class WeightStandardizedConv2d(nn.Conv2d):
    def forward(self, x):
        eps = 1e-5 if x.dtype == torch.float32 else 1e-3
        weight = self.weight
        mean = weight.mean(dim=(1, 2, 3), keepdim=True)
        var = weight.var(dim=[1, 2, 3], unbiased=False, keepdim=True)
        normalized_weight = (weight - mean) * (var + eps).rsqrt()
        return F.conv2d(
            x, normalized_weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class Block(nn.Module):
    def __init__(self, dim, dim_out, groups=2):
        super().__init__()
        self.proj = WeightStandardizedConv2d(dim, dim_out, 3, padding=1)
        self.norm = nn.GroupNorm(groups, dim_out)
        self.act = nn.SiLU()

    def forward(self, x, scale_shift=None):
        x = self.norm(self.proj(x))
        if exists(scale_shift):
            scale, shift = scale_shift
            x = x * (scale + 1) + shift
        return self.act(x)


class ResnetBlock(nn.Module):
    def __init__(self, dim, dim_out, *, time_emb_dim=None):
        super().__init__()
        self.mlp = (
            nn.Sequential(nn.SiLU(), nn.Linear(time_emb_dim, dim_out * 2)) if exists(time_emb_dim) else None
        )
        self.block1 = Block(dim, dim_out)
        self.block2 = Block(dim_out, dim_out)
        self.res_conv = nn.Conv2d(dim, dim_out, 1) if dim != dim_out else nn.Identity()

    def forward(self, x, time_emb=None):
        scale_shift = None
        if exists(self.mlp) and exists(time_emb):
            time_emb = self.mlp(time_emb)[:, :, None, None]
            scale_shift = time_emb.chunk(2, dim=1)
        return self.block2(self.block1(x, scale_shift=scale_shift)) + self.res_conv(x)


class Attention(nn.Module):
    def __init__(self, dim, heads=2, dim_head=4):
        super().__init__()
        self.scale, self.heads = dim_head**-0.5, heads
        self.to_qkv = nn.Conv2d(dim, dim_head * heads * 3, 1, bias=False)
        self.to_out = nn.Conv2d(dim_head * heads, dim, 1)

    def forward(self, x):
        b, _c, h, w = x.shape
        q, k, v = (t.reshape(b, self.heads, -1, h * w) for t in self.to_qkv(x).chunk(3, dim=1))
        q = q * self.scale
        sim = einsum("b h d i, b h d j -> b h i j", q, k)
        sim = sim - sim.amax(dim=-1, keepdim=True).detach()
        out = einsum("b h i j, b h d j -> b h i d", sim.softmax(dim=-1), v)
        return self.to_out(out.permute(0, 1, 3, 2).reshape(b, -1, h, w)) + x


class Unet(nn.Module):
    def __init__(self, dim=4):
        super().__init__()
        self.init = nn.Conv2d(1, dim, 3, padding=1)
        self.time = nn.Sequential(SinusoidalPositionEmbeddings(dim), nn.Linear(dim, dim * 4), nn.GELU())
        self.downs = nn.ModuleList(
            [
                nn.ModuleList([ResnetBlock(dim, dim * 2, time_emb_dim=dim * 4), nn.MaxPool2d(2)])
                for _ in range(1)
            ]
        )
        self.mid = ResnetBlock(dim * 2, dim * 2, time_emb_dim=dim * 4)
        self.attention = Attention(dim * 2)
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(dim * 2, dim * 2, 3, padding=1)
        )
        self.last = ResnetBlock(dim * 4, dim, time_emb_dim=dim * 4)
        self.out = nn.Conv2d(dim, 1, 1)

    def forward(self, x, time):
        x, t, skips = self.init(x), self.time(time), []
        for block, pool in self.downs:
            x = block(x, t)
            skips.append(x)
            x = pool(x)
        x = self.attention(self.mid(x, t))
        return self.out(self.last(torch.cat((self.up(x), skips.pop()), dim=1), t))


def cosine_beta_schedule(timesteps, s=0.008):
    steps = timesteps + 1
    x = torch.linspace(0, timesteps, steps)
    alphas_cumprod = torch.cos(((x / timesteps) + s) / (1 + s) * torch.pi * 0.5) ** 2
    alphas_cumprod = alphas_cumprod / alphas_cumprod[0]
    return torch.clip(1 - (alphas_cumprod[1:] / alphas_cumprod[:-1]), 0.0001, 0.9999)


def extract(a, t, x_shape):
    return a.gather(-1, t.cpu()).reshape(t.shape[0], *((1,) * (len(x_shape) - 1))).to(t.device)


def main(log, prepare):
    timesteps = 10
    betas = cosine_beta_schedule(timesteps)
    alphas = 1.0 - betas
    alphas_cumprod = torch.cumprod(alphas, axis=0)
    alphas_cumprod_prev = F.pad(alphas_cumprod[:-1], (1, 0), value=1.0)
    sqrt_recip_alphas = torch.sqrt(1.0 / alphas)
    posterior_variance = betas * (1.0 - alphas_cumprod_prev) / (1.0 - alphas_cumprod)
    model = prepare(Unet())
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    images = torch.rand(4, 1, 8, 8) * 2 - 1
    for _ in range(3):
        opt.zero_grad()
        t = torch.randint(0, timesteps, (images.shape[0],)).long()
        noise = torch.randn_like(images)
        x_noisy = (
            extract(alphas_cumprod.sqrt(), t, images.shape) * images
            + extract(torch.sqrt(1.0 - alphas_cumprod), t, images.shape) * noise
        )
        loss = F.smooth_l1_loss(noise, model(x_noisy, t))
        loss.backward()
        opt.step()
        log(loss)

    @torch.no_grad()
    def p_sample(x, t, t_index):
        betas_t = extract(betas, t, x.shape)
        scaled = betas_t * model(x, t) / extract(torch.sqrt(1.0 - alphas_cumprod), t, x.shape)
        model_mean = extract(sqrt_recip_alphas, t, x.shape) * (x - scaled)
        if t_index == 0:
            return model_mean
        return model_mean + torch.sqrt(extract(posterior_variance, t, x.shape)) * torch.randn_like(x)

    img = torch.randn((2, 1, 8, 8))
    for i in reversed(range(timesteps)):
        img = p_sample(img, torch.full((2,), i, dtype=torch.long), i)
    log(img.mean(), img.std())
