"""KL divergences against torch.distributions; their estimators' expectations, summed over the actions (T16)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td

from deeprl_cli.errors import ConfigError
from deeprl_cli.rl.distributions import Bernoulli, Categorical, Gaussian, MultiCategorical
from deeprl_cli.rl.kl import COEF_RANGE, ESTIMATORS, KLConfig, adapt, k1, k2, k3

PI, REF = (0.5, 0.3, 0.2), (0.25, 0.25, 0.5)
ACTIONS = torch.arange(3)


def randn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_categorical_kl_is_torchs():
    p, q = randn(2, 5, 7).unbind()
    expected = td.kl_divergence(td.Categorical(logits=p), td.Categorical(logits=q))
    torch.testing.assert_close(Categorical(p).kl(Categorical(q + 9)), expected)


def test_multicategorical_kl_adds_up():
    p, q = randn(2, 5, 9).unbind()
    sizes = [3, 2, 4]
    parts = zip(p.split(sizes, -1), q.split(sizes, -1), strict=True)
    expected = sum(td.kl_divergence(td.Categorical(logits=a), td.Categorical(logits=b)) for a, b in parts)
    torch.testing.assert_close(MultiCategorical(p, sizes).kl(MultiCategorical(q, sizes)), expected)


def test_bernoulli_kl_is_torchs():
    """Also where the sigmoid rounds to 1: then KL is the difference of the logits, not NaN."""
    p, q = randn(2, 5, 3).unbind()
    expected = td.kl_divergence(td.Bernoulli(logits=p), td.Bernoulli(logits=q)).sum(-1)
    torch.testing.assert_close(Bernoulli(p).kl(Bernoulli(q)), expected)
    far = Bernoulli(torch.tensor([60.0])).kl(Bernoulli(torch.tensor([-60.0])))
    assert far.item() == pytest.approx(60.0)


def test_gaussian_kl_is_torchs():
    p, q = randn(2, 5, 6).unbind()
    (pm, ps), (qm, qs) = p.chunk(2, -1), q.chunk(2, -1)
    expected = td.kl_divergence(td.Normal(pm, ps.exp()), td.Normal(qm, qs.exp())).sum(-1)
    torch.testing.assert_close(Gaussian(p).kl(Gaussian(q)), expected)


@pytest.mark.parametrize(
    ("kind", "width"),
    [(Categorical, 4), (lambda x: MultiCategorical(x, [2, 2]), 4), (Bernoulli, 4), (Gaussian, 4)],
)
def test_kl_of_a_distribution_from_itself_is_a_minimum(kind, width):
    """0 there, with zero gradient: what a trust region's quadratic model rests on."""
    params = randn(3, width).requires_grad_()
    kl = kind(params).kl(kind(params.detach()))
    torch.testing.assert_close(kl, torch.zeros_like(kl))
    torch.testing.assert_close(torch.autograd.grad(kl.sum(), params)[0], torch.zeros_like(params))


# --- T16: values ------------------------------------------------------------------------------------------------------


def logits():
    return torch.tensor(PI, dtype=torch.float64).log().requires_grad_()


def each_action(name, params):
    """The estimator at every action, and the actions' probabilities under π'."""
    pi, ref = Categorical(params), Categorical(torch.tensor(REF, dtype=torch.float64).log())
    values = ESTIMATORS[name](Categorical(params.expand(3, 3)), Categorical(ref.log_probs.expand(3, 3)), ACTIONS)
    return values, pi.log_probs.exp()


def kl_by_hand(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize(
    ("name", "expected"), [("exact", 0.218012), ("k1", 0.218012), ("k2", 0.209058), ("k3", 0.218012)]
)
def test_values(name, expected):
    """E of each under π' (T16): k1 and k3 are unbiased, k2 isn't."""
    values, p = each_action(name, logits())
    assert (values * p).sum().item() == pytest.approx(expected, abs=1e-6)
    assert kl_by_hand(PI, REF) == pytest.approx(0.218012, abs=1e-6)


def test_k3_is_never_negative_and_varies_less():
    """The control variate: the same mean as k1, no negative value, a smaller variance."""
    log_r = torch.tensor(REF).log() - torch.tensor(PI).log()
    p = torch.tensor(PI)
    assert (k1(log_r) < 0).any()
    assert (k3(log_r) >= 0).all()
    variance = [(p * (k(log_r) - (p * k(log_r)).sum()).square()).sum() for k in (k1, k3)]
    assert variance[1] < variance[0]


def test_estimators_of_one_ratio():
    """r = 2, by hand."""
    log_r = torch.tensor(math.log(2.0), dtype=torch.float64)
    assert k1(log_r).item() == pytest.approx(-0.693147, abs=1e-6)
    assert k2(log_r).item() == pytest.approx(0.240227, abs=1e-6)
    assert k3(log_r).item() == pytest.approx(0.306853, abs=1e-6)


# --- T16: gradients ---------------------------------------------------------------------------------------------------


def gradient(of):
    """∇ of `of(logits)` at π."""
    params = logits()
    return torch.autograd.grad(of(params), params)[0]


def forward_kl(params):
    """KL[π' ‖ π_ref]"""
    return Categorical(params).kl(Categorical(torch.tensor(REF, dtype=torch.float64).log()))


def reverse_kl(params):
    """KL[π_ref ‖ π']"""
    return Categorical(torch.tensor(REF, dtype=torch.float64).log()).kl(Categorical(params))


def expected_loss(name, weighted=False):
    """E over actions drawn from π' itself, which the gradient doesn't pass through; `weighted` by ρ = π'/sg(π')."""

    def loss(params):
        values, p = each_action(name, params)
        return (p.detach() * values * (p / p.detach() if weighted else 1.0)).sum()

    return loss


def test_gradients_of_the_estimators_as_losses():
    """E∇k1 = 0, E∇k2 = ∇KL[π'‖ref], E∇k3 = ∇KL[ref‖π'] = π − ref by logits: another thing altogether (T16)."""
    right, other = gradient(forward_kl), gradient(reverse_kl)
    torch.testing.assert_close(gradient(expected_loss("exact")), right)
    torch.testing.assert_close(gradient(expected_loss("k1")), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(gradient(expected_loss("k2")), right)
    torch.testing.assert_close(gradient(expected_loss("k3")), other)
    torch.testing.assert_close(other, torch.tensor([0.25, 0.05, -0.3], dtype=torch.float64))
    assert not torch.allclose(right, other, atol=1e-3)


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_importance_weights_mend_the_gradient(name):
    """ρ·k has the gradient ∇KL[π'‖ref] (T16)."""
    torch.testing.assert_close(gradient(expected_loss(name, weighted=True)), gradient(forward_kl))


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_importance_weights_hold_where_the_policy_has_moved(name):
    """Actions drawn from an older π: ρ = π'/π gives the value and the gradient of KL[π'‖ref]."""
    old = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)

    def loss(params):
        values, p = each_action(name, params)
        return (old * values * p / old).sum()

    torch.testing.assert_close(gradient(loss), gradient(forward_kl))
    assert loss(logits()).item() == pytest.approx(0.218012, abs=1e-6)


def test_entropy_is_the_divergence_from_uniform():
    """H = log|A| − KL(π ‖ U) (T17): the entropy bonus is a KL penalty with the uniform reference."""
    pi, uniform = Categorical(randn(6, 5)), Categorical(torch.zeros(6, 5, dtype=torch.float64))
    torch.testing.assert_close(pi.entropy(), math.log(5) - pi.kl(uniform))


# --- β and the options ------------------------------------------------------------------------------------------------


def test_adaptive_coefficient():
    """Doubled above 1.5·target, halved below target/1.5, each seed by itself; NaN moves nothing; bounded."""
    kl = torch.tensor([0.016, 0.0149, 0.0067, 0.0066, math.nan])
    assert adapt(torch.full((5,), 3.0), kl, 0.01).tolist() == [6.0, 3.0, 3.0, 1.5, 3.0]
    low, high = COEF_RANGE
    assert adapt(torch.tensor([high]), torch.tensor([1.0]), 0.01).item() == pytest.approx(high)
    assert adapt(torch.tensor([low]), torch.tensor([0.0]), 0.01).item() == pytest.approx(low)


def configured(**values):
    plain = {
        "mode": "none",
        "coef": 1.0,
        "adaptive": False,
        "target": None,
        "estimator": "exact",
        "where": "loss",
        "ref": "old",
        "importance_weight": False,
    }
    return KLConfig(**{**plain, **values})


IN_REWARD = {"mode": "penalty", "where": "reward", "ref": "initial", "estimator": "k1"}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"mode": "stop", "target": 0.01},
        {"mode": "stop", "target": 0.01, "estimator": "k1"},
        {"mode": "penalty"},
        {"mode": "penalty", "adaptive": True, "target": 0.01, "ref": "initial"},
        {"mode": "penalty", "estimator": "k2"},
        {"mode": "penalty", "estimator": "k3"},
        {"mode": "penalty", "estimator": "k3", "importance_weight": True},
        {"mode": "penalty", "estimator": "k1", "importance_weight": True},
        IN_REWARD,
    ],
)
def test_options_that_go_together(values):
    configured(**values).validate()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mode": "stop"}, "give algo.kl.target="),
        ({"mode": "penalty", "adaptive": True}, "give algo.kl.target="),
        ({"target": 0.01}, "give algo.kl.mode=stop"),
        ({"mode": "penalty", "target": 0.01}, "algo.kl.adaptive=true"),
        ({"adaptive": True, "target": 0.01}, "give algo.kl.mode=penalty"),
        ({"ref": "initial"}, "give algo.kl.mode=penalty"),
        ({"mode": "stop", "target": 0.01, "ref": "initial"}, "give algo.kl.mode=penalty"),
        ({"mode": "stop", "target": 0.01, "importance_weight": True}, "give algo.kl.mode=penalty"),
        ({"where": "reward"}, "give algo.kl.mode=penalty"),
        ({"mode": "penalty", "coef": 0.0}, "algo.kl.mode=none"),
        ({"mode": "penalty", "estimator": "k1"}, "give algo.kl.importance_weight=true"),
        ({"mode": "penalty", "importance_weight": True}, "leave algo.kl.importance_weight out"),
        ({**IN_REWARD, "ref": "old"}, "give algo.kl.ref=initial"),
        ({**IN_REWARD, "estimator": "exact"}, "give algo.kl.estimator=k1"),
        ({**IN_REWARD, "importance_weight": True}, "leave it out of where=reward"),
    ],
)
def test_options_that_contradict_each_other(values, says):
    """Refused in one line that says what to type instead."""
    with pytest.raises(ConfigError) as caught:
        configured(**values).validate()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
