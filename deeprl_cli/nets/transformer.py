"""A small causal transformer over token observations.

Shapes: B batch, L positions, D width, H heads, V + 1 values of a token, the last of them padding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeprl_cli.nets.tables import lookup

INIT_STD = 0.02  # of weights and embeddings (Radford et al. 2019, GPT-2)


class Transformer(nn.Module):
    """Tokens `(B, L)` to the features `(B, D)` at the last one that isn't padding.

    Pre-LN blocks (Radford et al. 2019) with learned positions. Padding stands behind the tokens; being causal, what is
    read has seen none of it. Where the last value is a token like any other nothing is lost: which positions behind the
    one read hold it is known from that position.
    """

    def __init__(self, values: int, length: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.length, self.padding, self.out_features = length, values - 1, width
        self.tokens = nn.Parameter(torch.randn(values, width) * INIT_STD)
        self.positions = nn.Parameter(torch.randn(length, width) * INIT_STD)
        self.blocks = nn.ModuleList(Block(width, heads, layers) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        # beyond one a weight: rows of the tables are read, the blocks' weights meet every position, and so does every
        # position every other, twice; in the last block, keys and values alone are asked of every position
        block = sum(p.numel() for p in self.blocks[0].parameters())
        self.multiplications = (
            -(values + length) * width
            + (layers - 1) * (block * (length - 1) + 2 * length * length * width)
            + 2 * width * width * (length - 1)
            + 2 * length * width
        )

    def forward(self, obs: Tensor) -> Tensor:
        tokens = obs.reshape(obs.shape[0], self.length).long()
        places = torch.arange(self.length, device=obs.device)
        x = lookup(self.tokens, tokens) + self.positions
        causal = places.unsqueeze(-1) >= places  # query (row) sees key (column)
        last = ((tokens != self.padding) * places).amax(-1, keepdim=True)
        *blocks, last_block = self.blocks
        for block in blocks:
            x = block(x, x, causal)
        # of the last block one position is read, so that one alone need ask the others
        at_last = torch.where((places == last).unsqueeze(-1), x, 0.0).sum(1, keepdim=True)
        x = last_block(at_last, x, (places <= last).unsqueeze(1))
        read: Tensor = self.norm(x.squeeze(1))
        return read


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)); a GELU layer four times as wide inside the MLP.

    Positions `x` `(B, Q, D)` attend to `context` `(B, L, D)`, of which they see what `seen` `(B or 1, Q, L)` says.
    """

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (self.qkv, self.attended, self.wide, self.narrow):
            # what is added to the residual stream is scaled down by how often that happens (GPT-2)
            adds = layer in (self.attended, self.narrow)
            nn.init.normal_(layer.weight, std=INIT_STD / math.sqrt(2 * layers) if adds else INIT_STD)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, context: Tensor, seen: Tensor) -> Tensor:
        width = x.shape[-1]
        (w_q, w_kv), (b_q, b_kv) = (p.split((width, 2 * width)) for p in (self.qkv.weight, self.qkv.bias))
        q = F.linear(self.norm_attention(x), w_q, b_q).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        kv = F.linear(self.norm_attention(context), w_kv, b_kv).unflatten(-1, (2, self.heads, -1))
        k, v = kv.movedim(-4, -2).unbind(-4)
        # written out: torch's fused attention can't be differentiated twice, which TRPO needs
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(~seen.unsqueeze(-3), -math.inf).softmax(-1)
        x = x + self.attended((weights @ v).transpose(-2, -3).flatten(-2))
        residual: Tensor = x + self.narrow(F.gelu(self.wide(self.norm_mlp(x))))
        return residual
