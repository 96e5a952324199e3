"""REINFORCE and actor-critic on a toy environment: Categorical, log_prob, entropy, returns, clipping."""

from collections import deque

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from torch.distributions import Categorical


class Corridor:
    """Walk to the right end; the state is the position and its square."""

    def reset(self):
        self.at, self.steps = 0, 0
        return self._state()

    def _state(self):
        return np.array([self.at / 4, (self.at / 4) ** 2, 1.0, self.steps / 20], dtype=np.float32)

    def step(self, action):
        self.at = max(0, self.at + (1 if action == 1 else -1))
        self.steps += 1
        done = self.at == 4 or self.steps == 20
        return self._state(), 1.0 if self.at == 4 else -0.1, done, {}


class Policy(nn.Module):
    def __init__(self):
        super(Policy, self).__init__()
        self.affine1 = nn.Linear(4, 16)
        self.dropout = nn.Dropout(p=0.0)
        self.action_head = nn.Linear(16, 2)
        self.value_head = nn.Linear(16, 1)

    def forward(self, x):
        x = F.relu(self.dropout(self.affine1(x)))
        return F.softmax(self.action_head(x), dim=-1), self.value_head(x)


def main(log, prepare):
    env, model = Corridor(), prepare(Policy())
    optimizer = optim.Adam(model.parameters(), lr=3e-2)
    eps = np.finfo(np.float32).eps.item()
    choices = np.random.RandomState(0)
    for _episode in range(4):
        state, saved, rewards, entropies = env.reset(), [], [], []
        done = False
        while not done:
            probs, value = model(torch.from_numpy(state).float().unsqueeze(0))
            m = Categorical(probs)
            # A draw of one's own, so that two libraries walk the same way.
            action = torch.tensor([int(choices.rand() < probs[0, 1].item())])
            saved.append((m.log_prob(action), value))
            entropies.append(m.entropy())
            state, reward, done, _ = env.step(action.item())
            rewards.append(reward)
        R, returns = 0, deque()
        for r in rewards[::-1]:
            R = r + 0.99 * R
            returns.appendleft(R)
        returns = torch.tensor(returns)
        returns = (returns - returns.mean()) / (returns.std() + eps)
        policy_losses, value_losses = [], []
        for (log_prob, value), R in zip(saved, returns):
            advantage = R - value.item()
            policy_losses.append(-log_prob * advantage)
            value_losses.append(F.smooth_l1_loss(value, torch.tensor([[R]])))
        optimizer.zero_grad()
        loss = (
            torch.stack(policy_losses).sum()
            + torch.stack(value_losses).sum()
            - 0.01 * torch.cat(entropies).sum()
        )
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        log(loss, norm, len(rewards))
