"""Our optimisers against torch's, per seed; clipping; accumulated gradients (T11); seeds that stand still."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from deeprl_cli.rl.optimisers import Optimiser

SHAPES = [(4, 3), (5,)]
TORCHS = {
    "adam": lambda p, lr, eps: torch.optim.Adam(p, lr=lr, eps=eps),
    "rmsprop": lambda p, lr, eps: torch.optim.RMSprop(p, lr=lr, eps=eps),
    "sgd": lambda p, lr, eps: torch.optim.SGD(p, lr=lr),
}


def make(name="adam", seeds=2, clip=None, schedule="constant", lr=0.05, eps=1e-5, shapes=SHAPES, value=None, k=1):
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(seeds, *shape, generator=generator)) for shape in shapes]
    config = SimpleNamespace(
        optim=name, optim_eps=eps, clip_norm=clip, clip_value=value, lr_schedule=schedule, accumulate_steps=k
    )
    return Optimiser(config, SimpleNamespace(lr=lr, **vars(config)), "lr", params), params


def gradients(step, seeds=2, shapes=SHAPES):
    """Of very different sizes from step to step and seed to seed."""
    generator = torch.Generator().manual_seed(100 + step)
    scale = torch.tensor([1.0, 30.0, 0.01])[:seeds] * (1 + step % 5)
    drawn = [torch.randn(seeds, *shape, generator=generator) for shape in shapes]
    return [g * scale.view(-1, *[1] * (g.ndim - 1)) for g in drawn]


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("name", TORCHS)
def test_equals_torch_over_twenty_steps(name, clip):
    """Every seed follows torch.optim on its own, behind clip_grad_norm_ over all its parameters together."""
    optimiser, params = make(name, clip=clip)
    copies = [[nn.Parameter(p[s].detach().clone()) for p in params] for s in range(2)]
    theirs = [TORCHS[name](own, 0.05, 1e-5) for own in copies]
    for step in range(20):
        grads = gradients(step)
        norms = optimiser.step(grads)
        for s in range(2):
            for p, g in zip(copies[s], grads, strict=True):
                p.grad = g[s].clone()
            norm = nn.utils.clip_grad_norm_(copies[s], float("inf") if clip is None else clip)
            torch.testing.assert_close(norms[s], norm)
            theirs[s].step()
        for i, p in enumerate(params):
            for s in range(2):
                torch.testing.assert_close(p[s], copies[s][i], rtol=1e-4, atol=1e-5)


def test_a_seeds_large_gradient_does_not_clip_the_other():
    """The norm is each seed's own: with SGD, the long one is cut to the limit, the short one taken as it is."""
    optimiser, (p,) = make("sgd", clip=1.0, lr=1.0, shapes=[(2,)])
    before = p.detach().clone()
    norms = optimiser.step([torch.tensor([[30.0, 40.0], [0.3, 0.4]])])
    assert norms.tolist() == pytest.approx([50.0, 0.5])
    torch.testing.assert_close(before - p, torch.tensor([[0.6, 0.8], [0.3, 0.4]]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", TORCHS)
def test_a_seed_without_a_finite_gradient_stands_still(name, bad):
    """Its parameters, moments and step count stay, the others' move as without it; it is counted, and recovers."""
    (sick, sick_params), (well, well_params) = make(name, 3), make(name, 3)
    for optimiser in (sick, well):
        optimiser.step(gradients(0, 3))
    before = {key: value.clone() for key, value in sick.state_dict().items()}
    params_before = [p.detach().clone() for p in sick_params]
    grads = gradients(1, 3)
    well.step(grads)
    grads[0][1, 2, 1] = bad
    sick.step(grads)
    assert sick.skipped.tolist() == [0, 1, 0]
    assert sick.steps.tolist() == [2, 1, 2]
    for key, value in sick.state_dict().items():
        if key != "skipped":
            assert torch.equal(value[1], before[key][1]), key
            assert torch.equal(value[[0, 2]], well.state_dict()[key][[0, 2]]), key
    for p, was, other in zip(sick_params, params_before, well_params, strict=True):
        assert torch.equal(p[1], was[1])
        assert torch.equal(p[[0, 2]], other[[0, 2]])
    sick.step(gradients(2, 3))
    assert not torch.equal(sick_params[0][1], params_before[0][1])
    assert sick_params[0].isfinite().all()


@pytest.mark.parametrize("name", TORCHS)
def test_active_leaves_seeds_out(name):
    """A seed left out keeps everything and isn't counted as skipped: a zero gradient would still move Adam."""
    optimiser, params = make(name)
    optimiser.step(gradients(0))
    before = [p.detach().clone() for p in params]
    state = {key: value.clone() for key, value in optimiser.state_dict().items()}
    optimiser.step(gradients(1), torch.tensor([True, False]))
    assert torch.equal(params[0][1], before[0][1])
    assert not torch.equal(params[0][0], before[0][0])
    assert all(torch.equal(value[1], state[key][1]) for key, value in optimiser.state_dict().items())
    assert optimiser.skipped.tolist() == [0, 0]


def test_learning_rates():
    """Linear falls to 0 at the end of the run; constant stays; each seed steps with its own."""
    linear, _ = make(schedule="linear")
    constant, _ = make()
    for progress, expected in ((0.0, 0.05), (0.5, 0.025), (1.0, 0.0)):
        linear.set_progress(progress)
        constant.set_progress(progress)
        assert linear.lr.tolist() == pytest.approx([expected] * 2)
        assert constant.lr.tolist() == pytest.approx([0.05] * 2)
    optimiser, (p,) = make("sgd", shapes=[(3,)])
    optimiser.lr.copy_(torch.tensor([0.1, 0.2]))
    before = p.detach().clone()
    optimiser.step([torch.ones(2, 3)])
    torch.testing.assert_close(before - p, torch.tensor([[0.1] * 3, [0.2] * 3]))


def test_clip_value_cuts_each_component():
    """Every component is brought to ±1 on its own, then the rest by its norm; what is reported is what came in."""
    optimiser, (p,) = make("sgd", lr=1.0, shapes=[(3,)], value=1.0)
    before = p.detach().clone()
    norms = optimiser.step([torch.tensor([[3.0, -0.5, -4.0], [0.1, 0.2, 0.2]])])
    torch.testing.assert_close(before - p, torch.tensor([[1.0, -0.5, -1.0], [0.1, 0.2, 0.2]]))
    assert norms.tolist() == pytest.approx([25.25**0.5, 0.3])

    both, (q,) = make("sgd", lr=1.0, shapes=[(3,)], value=1.0, clip=0.75)
    before = q.detach().clone()
    both.step([torch.tensor([[3.0, -0.5, -4.0], [0.1, 0.2, 0.2]])])
    torch.testing.assert_close(before - q, torch.tensor([[0.5, -0.25, -0.5], [0.1, 0.2, 0.2]]))


@pytest.mark.parametrize("clips", [{}, {"clip": 0.5}, {"value": 0.3}, {"clip": 0.5, "value": 0.3}])
@pytest.mark.parametrize("name", TORCHS)
def test_accumulating_k_is_one_step_along_their_mean(name, clips):
    """accumulate_steps=3: nothing moves for two calls; at the third, as one step on the mean gradient (T11)."""
    (parts, own), (whole, other) = make(name, k=3, **clips), make(name, **clips)
    for round_ in range(4):
        before = [p.detach().clone() for p in own]
        thirds = [gradients(3 * round_ + i) for i in range(3)]
        for grads in thirds[:2]:
            parts.step(grads)
            assert all(torch.equal(p, was) for p, was in zip(own, before, strict=True))
        parts.step(thirds[2])
        whole.step([torch.stack(same).mean(0) for same in zip(*thirds, strict=True)])
        for p, q, was in zip(own, other, before, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
            assert not torch.equal(p, was)
        assert parts.steps.tolist() == whole.steps.tolist() == [round_ + 1] * 2


def test_a_seed_without_a_finite_gradient_accumulates_later():
    """Its sum waits for a third finite gradient while the other seed steps; neither takes in what isn't finite."""
    optimiser, (p,) = make("sgd", lr=1.0, shapes=[(1,)], k=3)
    start = p.detach().clone()
    for value in (1.0, torch.nan, 3.0):
        optimiser.step([torch.tensor([[1.0], [value]])])
    torch.testing.assert_close(start - p, torch.tensor([[1.0], [0.0]]))
    optimiser.step([torch.tensor([[7.0], [5.0]])])
    torch.testing.assert_close(start - p, torch.tensor([[1.0], [3.0]]))
    assert optimiser.skipped.tolist() == [0, 1]
    assert optimiser.accumulated.tolist() == [1, 0]


def test_rmsprop_tf_by_hand():
    """v starts at 1, ε=.1 stands inside the root: −lr·g/√(v + ε) with v = .99v + .01g²; a seed left out keeps its v."""
    optimiser, (p,) = make("rmsprop_tf", lr=1.0, eps=0.1, shapes=[(1,)])
    before = p.detach().clone()
    optimiser.step([torch.tensor([[2.0], [2.0]])])
    torch.testing.assert_close(before - p, torch.full((2, 1), 2 / 1.13**0.5))
    between = p.detach().clone()
    optimiser.step([torch.tensor([[-1.0], [-1.0]])], torch.tensor([True, False]))
    torch.testing.assert_close(between - p, torch.tensor([[-1 / 1.1297**0.5], [0.0]]))
    torch.testing.assert_close(optimiser.v0, torch.tensor([[1.0297], [1.03]]))


@pytest.mark.parametrize("how", ["told of steps that others made", "from a checkpoint without the powers of beta"])
def test_adam_knows_its_corrections_from_the_count_of_steps(how):
    """Ours keeps β₁ᵗ and β₂ᵗ; where only t is known, they follow from it: the next step is the same."""
    (walked, own), (told, other) = make(), make()
    for step in range(5):
        walked.step(gradients(step), torch.tensor([True, step < 3]))
    state = walked.state_dict()
    powers = {name: state.pop(name) for name in ("beta1_power", "beta2_power")}
    if how.startswith("told"):
        told.load_state_dict({**state, **{name: torch.ones(2) for name in powers}})
        told.set_counts(walked.steps, walked.skipped)
    else:
        told.load_state_dict(state)
    for p, q in zip(own, other, strict=True):
        q.data.copy_(p.data)
    walked.step(gradients(5))
    told.step(gradients(5))
    torch.testing.assert_close(told.beta1_power, torch.tensor([0.9**6, 0.9**4]))
    for p, q in zip(own, other, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)  # in float32 a product of t factors isn't the power


@pytest.mark.parametrize("steps", [None, "many"])
def test_a_damaged_count_of_steps_is_an_error_like_any_other(steps):
    """Not a KeyError from within: whoever loads a checkpoint reports torch's RuntimeError in one line."""
    optimiser, _ = make()
    state = {n: t for n, t in optimiser.state_dict().items() if n not in ("steps", "beta1_power", "beta2_power")}
    with pytest.raises(RuntimeError, match="beta1_power"):
        optimiser.load_state_dict(state if steps is None else {**state, "steps": steps})
