"""Neural style transfer with forward hooks: Gram matrices, optimising an image, frozen weights, total variation."""

import torch
import torch.nn as nn
import torch.nn.functional as F


def gram_matrix(input):
    a, b, c, d = input.size()
    features = input.view(a * b, c * d)
    G = torch.mm(features, features.t())
    return G.div(a * b * c * d)


class Normalization(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)

    def forward(self, img):
        return (img - self.mean) / self.std


def main(log, prepare):
    cnn = nn.Sequential()
    cnn.add_module("norm", Normalization([0.4, 0.5, 0.6], [0.2, 0.3, 0.2]))
    for i, (a, b) in enumerate([(3, 4), (4, 6), (6, 8)], 1):
        cnn.add_module(f"conv_{i}", nn.Conv2d(a, b, 3, padding=1))
        cnn.add_module(f"relu_{i}", nn.ReLU(inplace=False))
        if i < 3:
            cnn.add_module(f"pool_{i}", nn.AvgPool2d(2))
    prepare(cnn).requires_grad_(False).eval()
    features = {}

    def save(name):
        def hook(module, inputs, output):
            features[name] = output

        return hook

    handles = [m.register_forward_hook(save(n)) for n, m in cnn.named_children() if n.startswith("relu")]
    content, style = torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12)
    cnn(content)
    content_target = features["relu_2"].detach()
    cnn(style)
    style_targets = {k: gram_matrix(v).detach() for k, v in features.items()}
    input_img = content.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([input_img], max_iter=4)
    run = [0]
    while run[0] < 6:

        def closure():
            with torch.no_grad():
                input_img.clamp_(0, 1)
            optimizer.zero_grad()
            cnn(input_img)
            style_score = sum(F.mse_loss(gram_matrix(features[k]), g) for k, g in style_targets.items())
            content_score = F.mse_loss(features["relu_2"], content_target)
            tv = (input_img[..., 1:] - input_img[..., :-1]).abs().mean() + (
                input_img[:, :, 1:, :] - input_img[:, :, :-1, :]
            ).abs().mean()
            loss = 1e3 * style_score + content_score + 0.1 * tv
            loss.backward()
            run[0] += 1
            log(loss)
            return loss

        optimizer.step(closure)
    for h in handles:
        h.remove()
    features.clear()
    cnn(content)
    assert not features
    grads = []
    handle = cnn.conv_2.register_full_backward_hook(lambda m, gi, go: grads.append(go[0].abs().sum()))
    x = content.clone().requires_grad_()
    score = cnn(x)[0, 0].mean()
    score.backward()
    handle.remove()
    saliency, _ = torch.max(x.grad.data.abs(), dim=1)
    log(saliency.sum(), grads[0])
    with torch.no_grad():
        small = F.interpolate(input_img, size=(6, 6), mode="bilinear", align_corners=False)
        log(small.sum(), (small * 255).clamp(0, 255).byte().float().mean())
