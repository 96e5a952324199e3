"""What a type checker makes of a user's program: ``mypy --strict`` on it, against the installed package (in CI)."""

from typing import assert_type

import fastdl
from fastdl import Tensor, nn
from fastdl.nn import functional as F


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.hidden(x)) @ self.out.weight.T


model = nn.Sequential(Net(), nn.Softmax(dim=-1))
optimizer = fastdl.optim.Adam(model.parameters(), lr=1e-3)
x = fastdl.randn(3, 4)
assert_type(x, Tensor)
assert_type(x + 1, Tensor)
assert_type(2 * x @ x.T, Tensor)
assert_type(x > 0, Tensor)
assert_type(x[0], Tensor)
assert_type(x.reshape(2, 6).sum(dim=1), Tensor)
assert_type(x.shape, fastdl.Size)
sizes: tuple[int, ...] = x.shape
assert_type(x.grad, Tensor | None)
assert_type(fastdl.cat([x, x]), Tensor)
assert_type(list(model.parameters()), list[nn.Parameter])
loss = F.cross_entropy(model(x), fastdl.randint(0, 2, (3,)))
assert_type(loss, Tensor)
loss.backward()
optimizer.step()
place = fastdl.empty(0)
assert_type(fastdl.cat([x, x], out=place), Tensor)
assert_type(fastdl.sum(x, 1, out=place), Tensor)
assert_type(fastdl.linalg.inv(x @ x.T, out=place), Tensor)
assert_type(fastdl.special.i0(x, out=place), Tensor)
assert_type(fastdl.exp(x, out=place), Tensor)
values, indices = fastdl.topk(x, 2, out=(place, fastdl.empty(0, dtype=fastdl.int64)))
fastdl.sum(x, outt=place)  # type: ignore[call-overload,call-arg,unused-ignore]
with fastdl.no_grad():
    assert_type(x.exp(), Tensor)
