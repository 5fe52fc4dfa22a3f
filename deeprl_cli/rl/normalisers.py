"""Running normalisation of observations and rewards, one set of statistics per seed; frozen in evaluation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeprl_cli.processes import ranks
from deeprl_cli.rl.returns import reverse_scan
from deeprl_cli.rl.values import Number, per_seed, spread

CLIP = 10.0  # normalised values beyond this are outliers of the first moments (SB3's VecNormalize)
EPSILON = 1e-8


class RunningStatistics(nn.Module):
    """Mean and variance of all that was seen, `(S, *shape)`, merged batch by batch (Chan et al. 1979)."""

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, num_seeds: int, shape: tuple[int, ...], left_out: Tensor | None = None) -> None:
        """`left_out`, `(*shape)`: numbers that stay as they are, as pixels do, which the network scales."""
        super().__init__()
        self.left_out = left_out  # no buffer: it is no statistic
        self.register_buffer("mean", torch.zeros(num_seeds, *shape))
        self.register_buffer("var", torch.ones(num_seeds, *shape))
        self.register_buffer("count", torch.zeros(num_seeds))

    @torch.no_grad()
    def update(self, x: Tensor, weight: Tensor) -> None:
        """Take in each rank's `x` `(S, n, *shape)`, but where `weight` `(S, n)` is 0 or anything isn't finite."""
        finite = x.isfinite().flatten(2).all(-1) if x.ndim > 2 else x.isfinite()
        weight = weight * finite  # one bad number would stay in the statistics for good
        x = x.nan_to_num(0.0, 0.0, 0.0)
        trailing = (slice(None), slice(None)) + (None,) * (x.ndim - 2)
        w = weight[trailing]
        n = weight.sum(1)
        batch_mean = (x * w).sum(1) / per_seed(n.clamp_min(1.0), self.mean)
        batch_var = ((x - batch_mean.unsqueeze(1)).square() * w).sum(1) / per_seed(n.clamp_min(1.0), self.mean)
        n, batch_mean, batch_var = ranks.merged_moments(n, batch_mean, batch_var)
        total = (self.count + n).clamp_min(1.0)
        share = per_seed(n / total, self.mean)
        delta = batch_mean - self.mean
        self.var.copy_(self.var * (1 - share) + batch_var * share + delta.square() * share * (1 - share))
        self.mean.add_(delta * share)
        self.count.add_(n)

    def normalise(self, x: Tensor) -> Tensor:
        """`x` `(S, …, *shape)` to zero mean and unit variance, clipped to ±10."""
        lead = (slice(None),) + (None,) * (x.ndim - self.mean.ndim)
        normalised = ((x - self.mean[lead]) / (self.var[lead] + EPSILON).sqrt()).clamp(-CLIP, CLIP)
        return normalised if self.left_out is None else torch.where(self.left_out.to(x.device), x, normalised)


class RewardScaler(nn.Module):
    """Divides rewards by the running standard deviation of the discounted return, per seed; signs are kept.

    The return G_t = r_t + γ(1 − e_{t−1})G_{t−1} starts afresh after every episode's end, of either kind.
    """

    per_env = ("returns",)
    returns: Tensor

    def __init__(self, num_seeds: int, num_envs: int) -> None:
        super().__init__()
        self.statistics = RunningStatistics(num_seeds, ())
        # γ(1 − e)G of the step before
        self.register_buffer("returns", torch.zeros(num_seeds, ranks.share_size(num_envs)))

    @torch.no_grad()
    def update(self, reward: Tensor, ended: Tensor, weight: Tensor, gamma: Number) -> None:
        """Take in `(S, T, B)` of consecutive steps; a dummy or padded one (weight 0) changes nothing."""
        reward = reward.nan_to_num(0.0, 0.0, 0.0) * weight
        carry = torch.where(weight > 0, spread(gamma, ended) * (1.0 - ended), 1.0)
        x = torch.cat(((reward[:, :1] + self.returns.unsqueeze(1)), reward[:, 1:]), 1)
        previous_carry = torch.cat((torch.zeros_like(carry[:, :1]), carry[:, :-1]), 1)
        returns = reverse_scan(x.flip(1), previous_carry.flip(1)).flip(1)
        self.returns.copy_(carry[:, -1] * returns[:, -1])
        self.statistics.update(returns.flatten(1), weight.flatten(1))

    def scale(self, reward: Tensor) -> Tensor:
        """`(S, …)` in units of the return's standard deviation, clipped to ±10."""
        return (reward / per_seed(self.std(), reward)).clamp(-CLIP, CLIP)

    def std(self) -> Tensor:
        """Of the return, `(S,)`."""
        return (self.statistics.var + EPSILON).sqrt()
