"""The causal transformer: where it reads, what it can't see, its size, and that it stacks and differentiates twice."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError
from deeprl_cli.nets.build import NetworkFactory
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.nets.transformer import Transformer

TOKENS = gym.spaces.MultiDiscrete([14] * 8)  # 13 and padding
PAD = 13


def factory(*overrides, space=TOKENS):
    return NetworkFactory(space, load_config(["tuned=none", "network=transformer", *overrides]).network, [], "tanh")


def tokens(*lead):
    return torch.randint(14, (*lead, 8))


def padded(*sequences):
    return torch.tensor([[*s, *[PAD] * (8 - len(s))] for s in sequences])


def test_size():
    """About 102k parameters with 13 tokens and padding, 8 positions, 13 outputs."""
    assert sum(p.numel() for p in factory()(13).parameters()) == 102_349


def test_the_last_token_is_read():
    """The features at a sequence's last token are those of the sequence alone, however much padding follows."""
    whole = Transformer(14, 8, 16, 2, 4)
    for length in range(1, 9):
        alone = Transformer(14, length, 16, 2, 4)
        state = whole.state_dict()
        alone.load_state_dict({**state, "positions": state["positions"][:length]})
        sequence = torch.randint(13, (3, length))
        torch.testing.assert_close(whole(padded(*sequence.tolist())), alone(sequence))


def test_order_and_every_token_matter():
    """Changing any one token, or swapping two, changes what is read."""
    network = Transformer(14, 8, 16, 2, 4)
    sequence = [1, 2, 3, 4, 5]
    before = network(padded(sequence))
    changed = [[*sequence[:i], 9, *sequence[i + 1 :]] for i in range(5)] + [[2, 1, 3, 4, 5]]
    for other in network(padded(*changed)):
        assert not torch.allclose(other, before[0], atol=1e-6)


def test_causal():
    """Gradients of what is read at position p reach the tokens up to p only."""
    network = Transformer(14, 8, 16, 2, 4)
    (gradient,) = torch.autograd.grad(network(padded([3, 1, 4]))[0, 0], [network.positions])
    assert (gradient[3:] == 0).all()
    assert (gradient[:3].abs().sum(-1) > 0).all()


def test_all_padding_and_none():
    """An empty sequence is read at position 0, a full one at the last; both are finite."""
    network = factory()(3)
    assert network(padded([], [1] * 8)).isfinite().all()


@pytest.mark.parametrize("share", ["true", "false"])
def test_actor_critic_stacks(share):
    """S members are S single ones, both parts."""
    make = factory(f"network.share={share}", "network.d_model=16")
    stack = Stacked(lambda: make.actor_critic(5, log_std=False), [0, 1])
    obs = tokens(2, 4)
    for part, shape in (("policy", (2, 4, 5)), ("value", (2, 4))):
        output = stack(obs, part=part)
        assert output.shape == shape
        for s in range(2):
            single = Stacked(lambda: make.actor_critic(5, log_std=False), [s])
            torch.testing.assert_close(output[s], single(obs[s : s + 1], part=part)[0], rtol=1e-4, atol=1e-6)
    names = {name.split(".")[0] for name in stack.shapes}
    assert names == {"actor", "critic"}
    assert any(name.startswith("critic.encoder") for name in stack.shapes) == (share == "false")


def test_starts():
    """Blocks as in GPT-2, whatever the algorithm; a head of the gain asked for."""
    torch.manual_seed(0)
    model = factory().actor_critic(13, log_std=False)
    block = model.actor.encoder.blocks[0]
    assert block.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert block.narrow.weight.std().item() == pytest.approx(0.02 / 2, rel=0.1)
    assert (block.qkv.bias == 0).all()
    assert model.actor.head.weight.norm(dim=1).tolist() == pytest.approx([0.01] * 13, rel=1e-4)


def test_compiles_and_differentiates_twice():
    """A Hessian-vector product over seeds, eager, in one graph, and against finite differences of the gradient."""
    torch.manual_seed(0)
    make = factory("network.d_model=8", "network.layers=1", "network.heads=2")
    stack, obs = Stacked(lambda: make(2), [0, 1]), tokens(2, 3)
    stack.double()
    direction = torch.randn_like(stack.flat)

    def gradient(flat, create_graph=False):
        chunks = flat.split(stack._sizes, -1)
        params = {
            name: chunk[..., : shape.numel()].unflatten(-1, shape)
            for chunk, (name, shape) in zip(chunks, stack.shapes.items(), strict=True)
        }
        loss = stack(obs, params=params).softmax(-1)[..., 0].log().sum()
        return torch.autograd.grad(loss, flat, create_graph=create_graph)[0]

    def product(flat):
        return torch.autograd.grad((gradient(flat, True) * direction).sum(), flat)[0]

    flat = stack.flat.detach().clone().requires_grad_()
    ours, eps = product(flat), 1e-6
    numeric = (gradient(flat + eps * direction) - gradient(flat - eps * direction)) / (2 * eps)
    torch.testing.assert_close(ours, numeric, rtol=1e-4, atol=1e-6)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(product, fullgraph=True, backend="aot_eager")(flat)
    torch.testing.assert_close(compiled, ours)


def test_learns_to_add():
    """A few hundred steps of regression on the sum of two digits: the tokens reach the output."""
    torch.manual_seed(0)
    network = factory("network.d_model=32")(1)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    obs = padded(*[[a, 10, b, 11] for a, b in pairs.tolist()])
    wanted = pairs.sum(1, keepdim=True).float() / 4 - 1
    for _ in range(150):
        loss = (network(obs) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.02


@pytest.mark.parametrize(
    "space", [gym.spaces.Discrete(5), gym.spaces.Box(0, 1, (4,)), gym.spaces.MultiDiscrete([3, 4])]
)
def test_reads_tokens_only(space):
    """Anything else is refused, with what to use."""
    with pytest.raises(ConfigError, match=r"reads tokens .*: use network=auto"):
        factory(space=space)


def test_heads_must_divide_the_width():
    """The message names the next width that does."""
    with pytest.raises(ConfigError, match=r"use network\.d_model=66"):
        factory("network.heads=6")
