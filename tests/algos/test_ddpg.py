"""DDPG's gradients by explicit Jacobians (T12), its targets, and its exploration in training."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from deeprl_cli.algorithm import EnvSpec
from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError
from deeprl_cli.processes.hardware import GraphCompiler
from deeprl_cli.runs.checkpoint import load_checkpoint, save_checkpoint
from tests.contract.harness import Learner, configured, differences, make_algorithm, opened_trainer, small

SQUASHED = ["ddpg", "td3", "sac"]  # policies that reach (−1, 1) only
SGD = ["algo.optim=sgd", "algo.lr_actor=0.5", "algo.lr_critic=0.25"]
OU = ["algo.exploration.kind=ou", "algo.exploration.sigma=0.2", "algo.exploration.dt=0.5"]


def ddpg(*options, seeds=(0,)):
    return make_algorithm("ddpg", seeds=list(seeds), options=["algo.gamma=0.9", *options])


def one_batch(algorithm):
    (batch, *_) = Learner(algorithm).data()
    return batch


def set_targets(algorithm, *values):
    """Target critics that say `values`, whatever they are asked."""
    with torch.no_grad():
        algorithm.critic_target.flat.zero_()
        algorithm.critic_target.views()["head.bias"][0, :, 0] = torch.tensor(values)


def test_target_at_ends():
    """Q'=2: y = r + .9·2 in mid-episode and on truncation, r on termination (T3)."""
    algorithm = ddpg()
    set_targets(algorithm, 2.0)
    d = torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    batch = one_batch(algorithm)._replace(terminated=d, truncated=d.roll(1))
    torch.testing.assert_close(algorithm.target(batch), batch.reward + 1.8 * (1 - d))


def test_two_critics_take_the_smaller_target():
    """critics=2 with 2 and −1: y = r − .9, for both."""
    algorithm = ddpg("algo.critics=2")
    set_targets(algorithm, 2.0, -1.0)
    batch = one_batch(algorithm)._replace(terminated=torch.zeros(1, 8))
    torch.testing.assert_close(algorithm.target(batch), batch.reward - 0.9)


@pytest.mark.parametrize("target_policy", [True, False])
def test_whose_action_the_target_takes(target_policy):
    """π_target by default; with target_policy=false there is none, and y follows π itself (row 23)."""
    algorithm = ddpg(f"algo.target_policy={str(target_policy).lower()}")
    assert ("actor_target" in algorithm.stacks()) == target_policy
    batch = one_batch(algorithm)
    before = algorithm.target(batch)
    with torch.no_grad():
        algorithm.actor.flat.add_(0.3)
    assert torch.equal(algorithm.target(batch), before) == target_policy


def test_critic_gradient_sample_by_sample():
    """Δw = −lr·(−(2/N) Σ (y_i − Q(s_i, a_i)) ∇_w Q(s_i, a_i)), sample by sample; w_target doesn't enter it (T12)."""
    algorithm = ddpg(*SGD)
    batch = one_batch(algorithm)
    n = batch.reward.shape[1]
    y = algorithm.target(batch)
    total = torch.zeros_like(algorithm.critic.flat)
    for i in range(n):
        q = algorithm.critic(batch.obs[:, i : i + 1], batch.action[:, i : i + 1]).squeeze()
        (slope,) = torch.autograd.grad(q, algorithm.critic.flat)
        total += -2 / n * (y[0, i] - q.detach()) * slope
    before = algorithm.critic.flat.detach().clone()
    algorithm.step(batch, {})
    torch.testing.assert_close(algorithm.critic.flat - before, -0.25 * total, rtol=1e-4, atol=1e-6)
    assert algorithm.critic.flat.grad is None


def test_actor_gradient_by_explicit_jacobian():
    """Δθ = lr·(1/N) Σ ∇_a Q(s, a)|_{a=π(s)} · ∂π(s)/∂θ, the Jacobian row by row; Q is the first critic's (T12)."""
    algorithm = ddpg(*SGD, "algo.critics=2")
    batch = one_batch(algorithm)
    n, size = batch.action.shape[1:]
    theta = algorithm.actor.flat
    pi = algorithm.actor(batch.obs).tanh()
    jacobian = [[torch.autograd.grad(pi[0, i, k], theta, retain_graph=True)[0] for k in range(size)] for i in range(n)]
    before = theta.detach().clone()
    algorithm.step(batch, {})

    action = pi.detach().requires_grad_()  # Q as the critics' step left it
    q = algorithm.critic(batch.obs, action)[:, 0].sum()
    (slope,) = torch.autograd.grad(q, action)
    total = sum(slope[0, i, k] * jacobian[i][k] for i in range(n) for k in range(size)) / n
    assert total.abs().max() > 1e-3
    torch.testing.assert_close(theta - before, 0.5 * total, rtol=1e-4, atol=1e-6)


def test_targets_follow_after_both_steps():
    """ρ·w_target + (1 − ρ)·w and the same of θ, with the w and θ of this very step (line 11)."""
    algorithm = ddpg("algo.rho=0.9")
    before = [stack.flat.detach().clone() for stack in (algorithm.critic_target, algorithm.actor_target)]
    algorithm.step(one_batch(algorithm), {})
    torch.testing.assert_close(algorithm.critic_target.flat, 0.9 * before[0] + 0.1 * algorithm.critic.flat)
    torch.testing.assert_close(algorithm.actor_target.flat, 0.9 * before[1] + 0.1 * algorithm.actor.flat)
    assert not torch.equal(algorithm.actor_target.flat, before[1])


def test_tau_is_one_minus_rho():
    """The same training under either name."""
    states = []
    for options in (["algo.rho=0.75"], ["algo.rho=null", "algo.tau=0.25"]):
        learner = Learner(ddpg(*options))
        learner.learn()
        states.append(learner.algorithm.state_dict())
    assert differences(*states) == []


@pytest.mark.parametrize("name", ["ddpg", "td3"])
def test_actions_explore_within_the_box(name):
    """With noise: π(s) + σξ, cut to [−1, 1]; without: π(s) itself."""
    algorithm = make_algorithm(name, seeds=[0], options=["algo.exploration.sigma=0.5"])
    obs, xi = torch.randn(1, 300, 4), torch.randn(1, 300, 2)
    greedy = algorithm.act(obs, None)
    torch.testing.assert_close(greedy, algorithm.actor(obs).tanh())
    action = algorithm.act(obs, xi)
    torch.testing.assert_close(action, (greedy + 0.5 * xi).clamp(-1, 1))
    assert action.abs().max() == 1


@pytest.mark.parametrize("name", ["ddpg", "td3"])
@pytest.mark.parametrize("backend", [None, "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_ornstein_uhlenbeck_moves_inside_the_graph(name, backend):
    """Compiled or not, `act` with noise moves the process, without noise or for another batch size leaves it."""
    algorithm = make_algorithm(name, seeds=[0, 1], options=[*OU, "algo.hidden=[8]"])
    if backend:
        torch._dynamo.reset()
        algorithm.compile_graphs(GraphCompiler(lambda _: None, backend=backend))
    obs, x = torch.randn(2, 2, 4), torch.zeros(2, 2, 2)
    pi = algorithm.act(obs, None)
    for step in range(6):  # the first call compiles, later ones skip dynamo's guards
        xi = torch.randn(2, 2, 2)
        x = x - 0.15 * 0.5 * x + 0.2 * 0.5**0.5 * xi
        torch.testing.assert_close(algorithm.act(obs, xi), (pi + x).clamp(-1, 1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(algorithm.state_dict()["exploration.x"], x, rtol=1e-5, atol=1e-6)
        algorithm.act(obs, None)
        algorithm.act_eagerly(torch.randn(2, 10, 4), torch.randn(2, 10, 2))
        torch.testing.assert_close(algorithm.exploration.x, x, rtol=1e-5, atol=1e-6)
        if step == 3:
            algorithm.episodes_ended(torch.tensor([[False, True], [False, False]]))
            x[0, 1] = 0


@pytest.mark.parametrize("name", ["ddpg", "td3"])
def test_sigma_follows_the_run(name):
    """linear: from sigma to sigma_end over the run, and reported."""
    options = ["algo.exploration.sigma=0.4", "algo.exploration.sigma_schedule=linear", "algo.exploration.sigma_end=0.1"]
    learner = Learner(make_algorithm(name, options=options))
    learner.updates = 9  # the next is at 500 of 1000 steps
    assert learner.learn()["explore/sigma"].tolist() == pytest.approx([0.25] * 3)
    learner.algorithm.set_progress(2000, 1000)
    assert learner.algorithm.exploration.sigma.tolist() == pytest.approx([0.1] * 3)


def training(name):
    return load_config(
        [
            *small(name),
            *OU,
            "env=Pendulum-v1",
            "seeds=2",
            "eval.episodes=2",
            "env.max_episode_steps=12",
            "algo.learning_starts=8",
        ]
    )


@pytest.mark.parametrize("name", ["ddpg", "td3"])
def test_noise_starts_again_with_each_episode(name, tmp_path):
    """The process is 0 exactly after steps in which the episode ended, and otherwise never."""
    with opened_trainer(training(name), tmp_path) as trainer:
        trainer.start()
        for step in range(1, 40):
            trainer.iterate()
            x = trainer.algorithm.exploration.x
            assert (x == 0).all() if step % 12 == 0 or step <= 4 else (x != 0).all(), step
        before = trainer.algorithm.exploration.x.clone()
        trainer.evaluate()
        assert torch.equal(trainer.algorithm.exploration.x, before)


@pytest.mark.parametrize("name", ["ddpg", "td3"])
def test_resumed_in_mid_episode_the_noise_goes_on(name, tmp_path):
    """Saved within an episode and loaded: the next steps, with updates among them, are the same bit for bit."""
    cfg = training(name)
    with opened_trainer(cfg, tmp_path) as whole, opened_trainer(cfg, tmp_path) as later:
        whole.start()
        for _ in range(17):
            whole.iterate()
        save_checkpoint(tmp_path / "last", whole.state_dict(), whole.segments())
        saved = load_checkpoint(tmp_path / "last")
        later.load_state_dict(saved.state, saved.segments)
        assert (later.algorithm.exploration.x != 0).all()
        for trainer in (whole, later):
            for _ in range(17):
                trainer.iterate()
        assert differences(*(trainer.state_dict()["policy"] for trainer in (whole, later))) == []
        assert (whole.obs == later.obs).all()


@pytest.mark.parametrize("name", SQUASHED)
@pytest.mark.parametrize(("low", "high"), [(-np.inf, np.inf), (-1.0, np.inf)])
def test_unbounded_actions_are_refused(name, low, high):
    """tanh reaches (−1, 1) only: an action without finite bounds is refused before the run."""
    cfg = configured(*small(name))
    space = gym.spaces.Box(np.float32([-1, low]), np.float32([1, high]))
    spec = EnvSpec("Test-v0", gym.spaces.Box(-1, 1, (3,)), space)
    with pytest.raises(ConfigError, match=f"algo={name} needs actions with finite bounds"):
        get_algorithm(name).check(cfg.algo, cfg.network, spec)


@pytest.mark.parametrize("name", [*SQUASHED, "dqn"])
def test_a_shared_trunk_is_refused(name):
    """network.share is for a policy and a V; these have no V."""
    cfg = configured(*small(name), "network.share=true")
    space = get_algorithm(name).action_spaces[0]
    spec = EnvSpec("Test-v0", gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2) if name == "dqn" else space(-1, 1))
    with pytest.raises(ConfigError, match=r"network\.share=false"):
        get_algorithm(name).check(cfg.algo, cfg.network, spec)


@pytest.mark.parametrize("name", ["ddpg", "td3"])
def test_a_process_that_overshoots_is_refused(name):
    """θ·dt above 1 leaps over its mean at every step; the message says which dt would do."""
    overrides = [f"algo={name}", "tuned=none", "algo.exploration.kind=ou", "algo.exploration.theta=4"]
    with pytest.raises(ConfigError, match=r"algo\.exploration\.dt=0\.25 or less"):
        load_config([*overrides, "algo.exploration.dt=0.5"])
    load_config([*overrides, "algo.exploration.dt=0.25"])
