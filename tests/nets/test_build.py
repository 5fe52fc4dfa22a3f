"""From spaces and options to networks: which one `auto` picks, what is refused, how weights start, what is shared."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.spec import EnvSpec, Image, channels_last
from deeprl_cli.errors import ConfigError
from deeprl_cli.nets.build import NetworkFactory, resolve_name
from deeprl_cli.nets.features import Fourier, Linear, Polynomial, RadialBasis
from deeprl_cli.nets.modules import Convolutions, Flatten, OneHot
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.nets.tables import JointIndex, Table, Tiles

VECTOR = gym.spaces.Box(-np.inf, np.inf, (5,))


def image(*shape):
    return gym.spaces.Box(0, 255, shape, np.uint8)


def factory(space=VECTOR, *overrides, hidden=(16, 8), activation="tanh"):
    return NetworkFactory(space, load_config(["tuned=none", *overrides]).network, hidden, activation)


@pytest.mark.parametrize(
    ("space", "name", "encoder"),
    [
        (VECTOR, "mlp", Flatten),
        (gym.spaces.Discrete(6), "mlp", OneHot),
        (gym.spaces.MultiDiscrete([3, 4]), "mlp", OneHot),
        (image(84, 84, 3), "cnn", Convolutions),
        (image(4, 84, 84), "cnn", Convolutions),
    ],
)
def test_auto(space, name, encoder):
    """Images get the CNN, everything else an MLP; the result reads members of the space."""
    make = factory(space)
    assert make.name == resolve_name(space, "auto") == name
    network = make(3)
    assert isinstance(network.encoder, encoder)
    space.seed(0)
    obs = torch.from_numpy(np.stack([space.sample() for _ in range(2)]))
    output = network(obs.clamp(-1, 1) if space is VECTOR else obs)
    assert output.shape == (2, 3)
    assert output.isfinite().all()


@pytest.mark.parametrize("space", [VECTOR, gym.spaces.Discrete(3), gym.spaces.Box(0, 1, (84, 84, 3))])
def test_cnn_reads_images_only(space):
    """What is no image of bytes is refused, with what to use."""
    with pytest.raises(ConfigError, match="network=mlp"):
        resolve_name(space, "cnn")


@pytest.mark.parametrize("shape", [(35, 84, 3), (4, 84, 35), (20, 20, 1)])
def test_small_frames_are_vectors_unless_cnn_is_chosen(shape):
    """`auto` reads boards as vectors; network=cnn has convolutions that fit them."""
    assert resolve_name(image(*shape), "cnn") == "cnn"
    assert resolve_name(image(*shape), "auto") == "mlp"
    assert resolve_name(image(*shape), "mlp") == "mlp"


def test_the_smallest_frame_does():
    """36 pixels leave one."""
    assert Convolutions((36, 36, 1), channels_last=True).out_features == 64
    assert Convolutions((84, 84, 4), channels_last=True).out_features == 3136


@pytest.mark.parametrize(
    ("shape", "last"), [((84, 84, 3), True), ((84, 84, 1), True), ((4, 84, 84), False), ((1, 84, 84), False)]
)
def test_channels(shape, last):
    """(H, W, C) against (C, H, W)."""
    assert channels_last(image(*shape)) == last
    assert channels_last(Image(*bounds(shape), channels_last=not last)) is not last  # a space that says it is believed


def bounds(shape):
    return np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)


@pytest.mark.parametrize("high", [2, 255])
def test_bytes_are_divided_by_what_they_can_be(high):
    """A board of 0, 1, 2 is seen in halves, a picture in 255ths."""
    board = gym.spaces.Box(0, high, (6, 7, 1), np.uint8)
    flatten = NetworkFactory(board, load_config("dqn").network, [8], "relu").encoder()
    assert flatten(torch.full((1, 6, 7, 1), high, dtype=torch.uint8)).unique().tolist() == [1.0]
    picture = gym.spaces.Box(0, high, (40, 40, 1), np.uint8)
    cnn = NetworkFactory(picture, load_config("dqn").network, [8], "relu").encoder()
    assert cnn.brightest == high


def test_both_layouts_see_the_same_picture():
    """Frames with the channels first or last give the same output for the same weights."""
    first, last = Convolutions((3, 40, 44), channels_last=False), Convolutions((40, 44, 3), channels_last=True)
    last.load_state_dict(first.state_dict())
    frames = torch.randint(256, (2, 3, 40, 44), dtype=torch.uint8)
    torch.testing.assert_close(last(frames.permute(0, 2, 3, 1)), first(frames))
    assert first(frames).shape == (2, first.out_features)


def test_onehot():
    """MultiDiscrete columns side by side; Discrete with or without an axis of its own."""
    expected = [[0, 1, 0, 0, 0, 0, 1], [1, 0, 0, 1, 0, 0, 0]]
    assert OneHot([3, 4])(torch.tensor([[1, 3], [0, 0]])).tolist() == expected
    assert OneHot([3])(torch.tensor([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert OneHot([3])(torch.tensor([2.0, 0.0])).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_bytes_are_scaled():
    """An MLP on bytes sees 0…1, so does the CNN."""
    network = factory(image(2, 2, 1), "network=mlp")(1)
    assert network.encoder(torch.full((1, 2, 2, 1), 255, dtype=torch.uint8)).tolist() == [[1.0] * 4]
    cnn = Convolutions((36, 36, 1), channels_last=True)
    with torch.no_grad():
        cnn.conv1.weight.fill_(1.0)
        cnn.conv1.bias.fill_(0.0)
    seen = []
    cnn.conv1.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].max().item()))
    cnn(torch.full((1, 36, 36, 1), 255, dtype=torch.uint8))
    assert seen == [1.0]


def layer_sizes(network):
    return [layer.out_features for layer in network.layers]


def test_sizes_and_activations():
    """The algorithm's own, unless network options say otherwise; linear has no layers; the CNN has 512 and relu."""
    assert layer_sizes(factory()(2)) == [16, 8]
    assert isinstance(factory()(2).activation, nn.Tanh)
    assert layer_sizes(factory(VECTOR, "network.hidden=[32]")(2)) == [32]
    assert isinstance(factory(VECTOR, "network.activation=silu")(2).activation, nn.SiLU)
    assert layer_sizes(factory(VECTOR, "network=linear")(2)) == []
    assert layer_sizes(factory(image(36, 36, 1))(2)) == [512]
    assert isinstance(factory(image(36, 36, 1))(2).activation, nn.ReLU)
    assert layer_sizes(factory(image(36, 36, 1), "network.hidden=[64,64]")(2)) == [64, 64]


def test_linear_is_linear():
    """network=linear: W φ + b."""
    network = factory(VECTOR, "network=linear")(2)
    x = torch.randn(3, 5)
    torch.testing.assert_close(network(x), x @ network.head.weight.T + network.head.bias)


def gram(weight):
    """W Wᵀ or WᵀW, whichever is the smaller: gain² I for an orthogonal W."""
    w = weight.flatten(1)
    return w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w


def assert_orthogonal(weight, gain):
    expected = gain**2 * torch.eye(min(weight.flatten(1).shape))
    torch.testing.assert_close(gram(weight.detach()), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("space", [VECTOR, image(36, 36, 1)])
def test_orthogonal_start_of_actor_critics(space):
    """Gain √2 in the body, .01 for the actor's head, 1 for the value's; biases and log σ are 0."""
    model = factory(space).actor_critic(3, log_std=True)
    for network, gain in ((model.actor, 0.01), (model.critic, 1.0)):
        assert_orthogonal(network.head.weight, gain)
        body = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m is not network.head]
        assert body
        for module in body:
            assert_orthogonal(module.weight, math.sqrt(2))
    assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith("bias"))
    assert (model.log_std == 0).all()


def test_off_policy_networks_start_as_torch_does():
    """Without a head gain: torch's default, whose weights stay inside ±1/√fan_in."""
    torch.manual_seed(0)
    network = factory()(3)
    bound = 1 / math.sqrt(16)
    assert network.layers[1].weight.abs().max() <= bound
    assert network.layers[1].bias.abs().max() > 0
    assert network.layers[1].weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.2)


def test_actor_critic_parts():
    """policy (B, P), with log σ beside the means where asked; value (B,)."""
    obs = torch.randn(4, 5)
    model = factory().actor_critic(3, log_std=True)
    assert model(obs, "policy").shape == (4, 6)
    assert (model(obs, "policy")[:, 3:] == 0).all()
    assert model(obs, "value").shape == (4,)
    plain = factory().actor_critic(3, log_std=False)
    assert plain(obs, "policy").shape == (4, 3)
    assert plain.log_std is None


def test_share():
    """One trunk under two heads: fewer parameters, and the value's gradient reaches the actor's layers."""
    shared = factory(VECTOR, "network.share=true").actor_critic(3, log_std=False)
    apart = factory().actor_critic(3, log_std=False)
    trunk = sum(p.numel() for layer in apart.actor.layers for p in layer.parameters())
    count = [sum(p.numel() for p in model.parameters()) for model in (shared, apart)]
    assert count[1] - count[0] == trunk
    obs = torch.randn(4, 5)
    for model, reaches in ((shared, True), (apart, False)):
        model.zero_grad()
        model(obs, "value").sum().backward()
        assert (model.actor.layers[0].weight.grad is not None) == reaches
        assert model.actor.head.weight.grad is None
    torch.testing.assert_close(shared(obs, "value"), shared.critic(shared.actor.features(obs)).squeeze(-1))
    assert_orthogonal(shared.critic.weight, 1.0)


@pytest.mark.parametrize("share", ["true", "false"])
def test_actor_critics_stack(share):
    """Both parts of the stacked module are those of its members."""
    make = factory(VECTOR, f"network.share={share}")
    stack = Stacked(lambda: make.actor_critic(2, log_std=True), [0, 1])
    obs = torch.randn(2, 4, 5)
    for part in ("policy", "value"):
        output = stack(obs, part=part)
        for s in range(2):
            single = Stacked(lambda: make.actor_critic(2, log_std=True), [s])
            torch.testing.assert_close(output[s], single(obs[s : s + 1], part=part)[0])


# ---- tables and features

MOUNTAIN_CAR = gym.spaces.Box(np.array([-1.2, -0.07], np.float32), np.array([0.6, 0.07], np.float32))
CART_POLE = gym.spaces.Box(*(np.array([4.8, np.inf, 0.42, 3.4e38], np.float32) * sign for sign in (-1, 1)))
CHOICE, CHOICES = gym.spaces.Discrete(6), gym.spaces.MultiDiscrete([3, 4])


def linear(space, features, *overrides):
    return factory(space, "network=linear", f"network.features={features}", *overrides)


@pytest.mark.parametrize(
    ("make", "kind", "reads", "size"),
    [
        (lambda: factory(CHOICE, "network=tabular"), Table, JointIndex, 6),
        (lambda: factory(CHOICES, "network=tabular"), Table, JointIndex, 12),
        (lambda: linear(CHOICE, "onehot"), Linear, OneHot, 6),
        (lambda: linear(CHOICES, "onehot"), Linear, OneHot, 7),
        (lambda: linear(MOUNTAIN_CAR, "poly"), Linear, Polynomial, 16),
        (lambda: linear(MOUNTAIN_CAR, "fourier", "network.order=5"), Linear, Fourier, 36),
        (lambda: linear(MOUNTAIN_CAR, "rbf", "network.centres=[5,9]"), Linear, RadialBasis, 45),
        (lambda: linear(MOUNTAIN_CAR, "tiles"), Table, Tiles, 8 * 9 * 9),
        (lambda: linear(MOUNTAIN_CAR, "tiles", "network.tilings=4", "network.bins=[2,3]"), Table, Tiles, 4 * 3 * 4),
    ],
)
def test_tables_and_features(make, kind, reads, size):
    """Which module reads what; its weights are zero, for actors, values and Q alike, and no random start moves them."""
    make = make()
    model = make.actor_critic(3, log_std=True)
    for network, outputs in ((make(2), 2), (make(2, head_gain=1.0), 2), (model.actor, 3), (model.critic, 1)):
        assert isinstance(network, kind)
        assert isinstance(network.index if kind is Table else network.features, reads)
        (weight,) = network.parameters()
        assert sorted(weight.shape) == sorted((size, outputs))
        assert (weight == 0).all()
    make.space.seed(0)
    obs = torch.from_numpy(np.stack([make.space.sample() for _ in range(4)]))
    assert model(obs, "policy").shape == (4, 6)
    assert model(obs, "value").shape == (4,)


def test_identity_of_choices_is_their_onehot_and_a_bias():
    """network=linear reads choices as before: one-hot columns, a bias, a random start."""
    network = factory(CHOICES, "network=linear")(2)
    assert isinstance(network.encoder, OneHot)
    assert network.head.weight.shape == (2, 7)
    assert network.head.bias.shape == (2,)


def test_bounds_complete_those_of_the_space():
    """Dimensions given take the bounds given, null keeps the space's."""
    make = linear(CART_POLE, "tiles", "network.bounds=[[-2.4,2.4],[-3,3],null,[-2,2]]", "network.bins=4")
    scales = make(2).index.unit.scales
    assert [low for low, _ in scales] == pytest.approx([-2.4, -3, -0.42, -2])
    assert [1 / scale for _, scale in scales] == pytest.approx([4.8, 6, 0.84, 4])


@pytest.mark.parametrize(
    ("space", "overrides", "says"),
    [
        (MOUNTAIN_CAR, "network=tabular", "network.features=tiles"),
        (image(84, 84, 3), "network=tabular", "use network=cnn"),
        (gym.spaces.MultiDiscrete([1000] * 3), "network=tabular", "1,000,000,000 rows"),
        (MOUNTAIN_CAR, "network=linear network.features=onehot", "not Box(2,): use network.features=tiles"),
        (CHOICE, "network=linear network.features=fourier", "use network.features=onehot or network=tabular"),
        (image(84, 84, 3), "network=linear network.features=rbf", "use network=cnn"),
        (CART_POLE, "network=linear network.features=tiles", "dimension 1, 3 .* 'network.bounds=[null,[-3,3],null,"),
        (MOUNTAIN_CAR, "network=linear network.features=tiles network.bounds=[[0,1]]", "1 entries for 2 dimensions"),
        (MOUNTAIN_CAR, "network=linear network.features=rbf network.bounds=[[1,0],null]", "network.bounds[0]"),
        (MOUNTAIN_CAR, "network=linear network.features=rbf network.bounds=[[0,1,2],null]", "network.bounds[0]"),
        (MOUNTAIN_CAR, "network=linear network.bounds=[[0,1],null]", "means nothing to network.features=identity"),
        (MOUNTAIN_CAR, "network=linear network.features=tiles network.bins=[4]", "network.bins=[4] has 1 entries"),
        (MOUNTAIN_CAR, "network=linear network.features=rbf network.centres=200", "fewer network.centres"),
        (MOUNTAIN_CAR, "network=linear network.features=poly network.order=200", "a lower network.order"),
        (MOUNTAIN_CAR, "network=linear network.features=tiles network.bins=999", "fewer network.bins"),
    ],
)
def test_refusals(space, overrides, says):
    """One line that names the option and what to use instead."""
    with pytest.raises(ConfigError) as caught:
        factory(space, *overrides.split())
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in says.split(" .* "))


@pytest.mark.parametrize(
    ("space", "overrides"),
    [
        (CHOICE, "network=tabular"),
        (CHOICE, "network=linear network.features=onehot"),
        (MOUNTAIN_CAR, "network=linear network.features=tiles"),
        (MOUNTAIN_CAR, "network=linear network.features=poly"),
        (gym.spaces.MultiDiscrete([5] * 4), "network=transformer"),
    ],
)
def test_extra_inputs_are_refused(space, overrides):
    """Continuous actions beside the observation: said before anything runs."""
    make = factory(space, *overrides.split())
    for refusing in (make.check_extra, lambda: make(1, extra=2)):
        with pytest.raises(ConfigError, match=r"can't be a critic Q\(s, a\) .* network=mlp"):
            refusing()


@pytest.mark.parametrize("overrides", ["network=linear", "network=mlp"])
def test_extra_inputs_join_the_features(overrides):
    """Those that can take them do."""
    make = factory(VECTOR, overrides)
    make.check_extra()
    assert make(1, extra=2)(torch.randn(3, 5), torch.randn(3, 2)).shape == (3, 1)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("network=mlp network.tilings=4", "'network.tilings': network=mlp doesn't have it; it belongs to linear"),
        ("tilings=4", "it belongs to linear"),
        ("network=linear network.hidden=[8]", "network=linear doesn't have it; it belongs to auto, cnn, mlp"),
        ("network=tabular network.share=true", "network=tabular doesn't have it"),
        ("network=linear network.feature=tiles", "did you mean 'network.features'"),
        ("network=linear network.features=tile", "did you mean 'tiles'"),
        ("network=linear network.bins=0", "must be at least 1"),
    ],
)
def test_options_of_another_network(overrides, says):
    """An option means something to the networks that list it, and is refused by the others."""
    with pytest.raises(ConfigError) as caught:
        load_config(overrides.split())
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("space", "overrides"),
    [
        (CHOICES, "network=tabular"),
        (CHOICES, "network=linear network.features=onehot"),
        *[(MOUNTAIN_CAR, f"network=linear network.features={name}") for name in ("poly", "fourier", "rbf", "tiles")],
        (gym.spaces.MultiDiscrete([5] * 4), "network=transformer"),
    ],
)
def test_everything_is_made_where_the_observations_are(space, overrides):
    """No tensor of another device meets them: on the meta device, mixing raises as it would on a GPU."""
    make = factory(space, *overrides.split())
    space.seed(0)
    obs = torch.from_numpy(np.stack([space.sample() for _ in range(6)])).unflatten(0, (2, 3)).to("meta")
    assert Stacked(lambda: make(4), [0, 1]).to("meta")(obs).shape == (2, 3, 4)


def test_a_critic_may_have_layers_of_its_own():
    """Of V beside a policy, and of Q(s, a); null: those of the actor."""
    make = factory(VECTOR, "network.hidden_critic=[7]")
    model = make.actor_critic(3, log_std=False)
    assert [layer.out_features for layer in model.actor.layers] == [16, 8]
    assert [layer.out_features for layer in model.critic.layers] == [7]
    assert [layer.out_features for layer in make(1, extra=2).layers] == [7]
    assert [layer.out_features for layer in factory().actor_critic(3, log_std=False).critic.layers] == [16, 8]


@pytest.mark.parametrize(
    ("overrides", "actions", "says"),
    [
        (["algo=dqn"], gym.spaces.Discrete(2), "algo=dqn: it has no critic"),
        (["algo=ppo", "network.share=true"], gym.spaces.Discrete(2), "leaves the critic no layers"),
        (["algo=grpo"], gym.spaces.Discrete(2), "it has no critic"),
        (["algo=sac"], gym.spaces.Box(-1.0, 1.0, (2,)), None),
        (["algo=trpo"], gym.spaces.Discrete(2), None),
    ],
)
def test_layers_of_a_critic_need_one(overrides, actions, says):
    cfg = load_config([*overrides, "tuned=none", "network.hidden_critic=[7]"])
    algorithm, spec = get_algorithm(cfg.algo.name), EnvSpec("Test-v0", VECTOR, actions)
    if says is not None:
        with pytest.raises(ConfigError, match=says):
            algorithm.check(cfg.algo, cfg.network, spec)
        return
    critic = algorithm(cfg.algo, cfg.network, spec, [0]).critic
    assert critic.views()["layers.0.weight"].shape[-2] == 7
