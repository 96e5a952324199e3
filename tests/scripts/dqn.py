"""DQN: replay memory, target network with soft updates, masked next states, gather, Huber loss, value clipping."""

import math
import random
from collections import deque, namedtuple

import torch
import torch.nn as nn
import torch.nn.functional as F

Transition = namedtuple("Transition", ("state", "action", "next_state", "reward"))


class DQN(nn.Module):
    def __init__(self, n_observations, n_actions):
        super().__init__()
        self.layer1 = nn.Linear(n_observations, 16)
        self.layer2 = nn.Linear(16, 16)
        self.layer3 = nn.Linear(16, n_actions)

    def forward(self, x):
        x = F.relu(self.layer1(x))
        x = F.relu(self.layer2(x))
        return self.layer3(x)


def main(log, prepare):
    rng = random.Random(0)
    policy_net = prepare(DQN(3, 2))
    target_net = DQN(3, 2)
    target_net.load_state_dict(policy_net.state_dict())
    optimizer = torch.optim.AdamW(policy_net.parameters(), lr=1e-3, amsgrad=True)
    memory = deque([], maxlen=100)
    state = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float32).unsqueeze(0)
    for step in range(12):
        threshold = 0.05 + 0.85 * math.exp(-1.0 * step / 5)
        if rng.random() > threshold:
            with torch.no_grad():
                action = policy_net(state).max(1).indices.view(1, 1)
        else:
            action = torch.tensor([[rng.randrange(2)]], dtype=torch.long)
        reward = torch.tensor([float(state.sum() > 0) - 0.5 * action.item()])
        next_state = None if step % 5 == 4 else (state * 0.9 + 0.1 * (action - 0.5)).clone()
        memory.append(Transition(state, action, next_state, reward))
        state = next_state if next_state is not None else torch.tensor([[0.1, -0.2, 0.3]])
        if len(memory) < 6:
            continue
        batch = Transition(*zip(*rng.sample(memory, 6)))
        non_final_mask = torch.tensor(tuple(map(lambda s: s is not None, batch.next_state)), dtype=torch.bool)
        non_final_next_states = torch.cat([s for s in batch.next_state if s is not None])
        state_batch, action_batch, reward_batch = (
            torch.cat(batch.state),
            torch.cat(batch.action),
            torch.cat(batch.reward),
        )
        state_action_values = policy_net(state_batch).gather(1, action_batch)
        next_state_values = torch.zeros(6)
        with torch.no_grad():
            next_state_values[non_final_mask] = target_net(non_final_next_states).max(1).values
        expected_state_action_values = (next_state_values * 0.99) + reward_batch
        loss = nn.SmoothL1Loss()(state_action_values, expected_state_action_values.unsqueeze(1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(policy_net.parameters(), 0.01)
        optimizer.step()
        target_net_state_dict = target_net.state_dict()
        policy_net_state_dict = policy_net.state_dict()
        for key in policy_net_state_dict:
            target_net_state_dict[key] = policy_net_state_dict[key] * 0.005 + target_net_state_dict[key] * (
                1 - 0.005
            )
        target_net.load_state_dict(target_net_state_dict)
        log(loss)
    for param in policy_net.parameters():
        param.data.clamp_(-1, 1)
        param.grad.data.clamp_(-1, 1)
    log(sum(p.sum().item() for p in target_net.parameters()))
