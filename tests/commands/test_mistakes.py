"""What people type by mistake, and the one line they get: what is wrong, and what to type instead.

One table, in this process: nothing is trained.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import types
import typing

import pytest

from deeprl_cli.algos.registry import ONE_KIND, SHARED, OftenGiven, algorithm_names, get_algorithm
from deeprl_cli.cli import main
from deeprl_cli.config.elsewhere import LIBRARIES, OPTIONS, ROWS, other_name, other_option
from deeprl_cli.config.files import GROUPS, algo_keys, group_options
from deeprl_cli.envs.advice import advice
from deeprl_cli.schema.numbers import meant_number
from deeprl_cli.training.preflight import preflight

MISTAKES = {
    # environments
    "train env=Breakout-v5": "did you mean 'ALE/Breakout-v5'?",
    "train env=pong": "did you mean 'ALE/Pong-v5'?",
    "train env=ale/pong-v5": "did you mean 'ALE/Pong-v5'?",
    "train env=cartpole": "did you mean 'CartPole-v1'?",
    "train env=CartPole": "did you mean 'CartPole-v1'?",
    "train env=CartPole_v1": "did you mean 'CartPole-v1'?",
    "train env=cartpole-v1": "did you mean 'CartPole-v1'?",
    "train env=gym/CartPole-v1": "did you mean 'CartPole-v1'?",
    "train env=CartPol-v1": "did you mean 'CartPole-v1'?",
    "train env=CartPole-v9": "its newest version is 'CartPole-v1'",
    "train env=LunarLander-v2": "its newest version is 'LunarLander-v3'",
    "train env=Hopper-v2": "Use env=Hopper-v5",
    "train env=phys2d/CartPole-v1": "pip install jax",
    "train env=FlappyBird-v0": "pip install 'flappy-bird-gymnasium', and write env=flappy_bird_gymnasium:FlappyBird-v0",
    "train env=dm_control/cheetah-run-v0": "'shimmy[dm-control]', and write env=shimmy:dm_control/cheetah-run-v0",
    "train env=MyRobot-v0": "if a module of yours or a package registers it, name that too: env=module:MyRobot-v0",
    "train env=my_robots:Arm-v0": "can't import 'my_robots' (ModuleNotFoundError: No module named",
    "train env=": "env takes one name: env=CartPole-v1",
    "train env.name=CartPole-v1": "write env=CartPole-v1",
    "train env.kwargs.foo=1": "env.kwargs.foo: 'CartPole-v1' doesn't take it; it takes sutton_barto_reward",
    "train env_kwargs.foo=1": "env.kwargs.foo=1",
    "train env.kwargs.render_mode=human": "to see the trained policy: deeprl watch RUN",
    "train log=wandb": "write log.to=[tensorboard,wandb]",
    "train save=true": "the last weights and the best ones are always kept: leave it out",
    "train -m seed=0,1 sweep_dir=mine": "write hydra.sweep.dir=mine",
    # algorithms that can't take the actions
    "train algo=sac": "use algo=ppo or algo=dqn or algo=a2c, or env=Pendulum-v1",
    "train algo=dqn env=Pendulum-v1": "use algo=sac or algo=ppo or algo=td3, or env=CartPole-v1",
    # hardware, seeds
    "train hardware=gpu": "unknown hardware 'gpu': here it is hardware=cuda",
    "train device=cuda": "here it is hardware=cuda",
    "train device=": "here it is hardware=cuda",
    "train device=mps": "here it is hardware=cpu",
    "train hardware=mps": "here it is hardware=cpu (Apple's GPU isn't used)",
    "train hardware.device=cuda": "here it is hardware=cuda",
    "train hardware.threads=0": "hardware.threads=0: must be at least 1",
    "train seeds=1,2": "seeds is how many train together, seeds=2; for one run of each, -m seed=1,2",
    "train 'seeds=range(5)'": "seeds is how many train together: write seeds=5",
    "train seed=0..4": "write seeds=5 to train them together, or -m seed='range(5)' for one run of each",
    "train seed=[3,4]": "for one run of each, write -m seed=3,4",
    "train seeds=0": "seeds=0: must be at least 1",
    # the words of others
    "train algo.learning_rate=1e-3": "that is its name in Stable-Baselines3 and CleanRL; here it is algo.lr=1e-3",
    "train algo.learnin_rate=1e-3": "did you mean 'learning_rate'? That is its name in Stable-Baselines3 and CleanRL",
    "train use_sde=True": "here it is algo.sde.enabled=True (state-dependent exploration)",
    "train learning_rate=1e-3 algo=sac": "here it is algo.lr_actor=1e-3 algo.lr_critic=1e-3 algo.lr_alpha=1e-3",
    "train lr=1e-3 algo=td3": "here it is algo.lr_actor=1e-3 algo.lr_critic=1e-3",
    "train n_steps=2048": "here it is algo.rollout_length=2048",
    "train algo=dqn n_steps=3": "this run's algorithm has no algo.rollout_length: leave it out",
    "train ent_coef=0.1 algo=sac": "here it is algo.alpha=0.1",
    "train tau=0.005 algo=sac": "here it is algo.rho=null algo.tau=0.005",
    "train algo.tau=0.005 algo=sac env=Pendulum-v1": "write algo.rho=0.995, or add algo.rho=null",
    "train buffer_size=1e5 algo=dqn": "here it is algo.buffer_capacity=1e5",
    "train net_arch=[64,64]": "here it is 'algo.hidden=[64,64]'",
    "train 'policy_kwargs=dict(net_arch=[64])'": "give each part a key of its own",
    "train n_envs=4": "here it is algo.num_envs=4",
    "train clip_range=0.2": "here it is algo.clip_eps=0.2",
    "train clip_range_vf=0.2": "here nothing clips the value's loss: leave it out",
    "train exploration_fraction=0.1 algo=dqn": "here it is algo.epsilon.fraction=0.1",
    "train policy=MlpPolicy": "here it is network=mlp",
    "train network=MlpPolicy": "here it is network=mlp",
    "train algo=DDQN": "here it is algo=dqn algo.double=double",
    "train total_timesteps=1e5": "here it is total_steps=1e5",
    "train verbose=1": "here a run always shows its progress: leave it out",
    "train --env-id CartPole-v1": "keys are written without dashes: env=CartPole-v1",
    "train --algo sac --learning-rate=1e-3": "without dashes: algo=sac algo.lr_actor=1e-3 algo.lr_critic=1e-3",
    "train --track": "log.to=[wandb]",
    # keys
    "train gamma=1.5": "did you mean 'algo.gamma'?",
    "train batch_size=64": "did you mean 'algo.batch_size'?",
    "train algo.gama=0.9": "did you mean 'algo.gamma'?",
    "train algo.algo.lr=1": "did you mean 'algo.lr'?",
    "train algo.total_steps=5": "did you mean 'total_steps'?",
    "train algo.seed=1": "did you mean 'seed'?",
    "train env.num_envs=4": "did you mean 'algo.num_envs'?",
    "train steps=1e5": "did you mean 'total_steps'?",
    "train total_step=1e5": "did you mean 'total_steps'?",
    "train evaluation.every=10": "did you mean 'eval.every'?",
    "train eval_every=1000": "did you mean 'eval.every'?",
    "train algo/lr=1e-3": "write algo.lr=1e-3",
    "train algo=PPO": "did you mean 'ppo'?",
    "train experiment=ppo": "did you mean 'deck/ppo'?",
    "train tuned=best": "`deeprl list tuned` shows what there is",
    "train tuned=sac/Pendulum-v1 algo=ppo": "tuned=sac/Pendulum-v1 is for algo=sac, and this run's is ppo",
    "train network=lstm": "here it is network=mlp env.frame_stack=4 (the last steps as one",
    "train network=resnet": "here it is network=cnn",
    "train my.yaml": "write --config-dir DIR experiment=NAME for a file DIR/experiment/NAME.yaml",
    "train render=true": "here deeprl watch RUN shows the trained policy: leave it out",
    "train algo=": "algo takes one name: algo=a2c",
    # how it is written
    "train algo = ppo": "no spaces around the equals sign: algo=ppo",
    "train algo= ppo": "no spaces around the equals sign: algo=ppo",
    "train algo =ppo": "no spaces around the equals sign: algo=ppo",
    "train algo ppo": "write algo=ppo",
    "train algo:ppo": "write algo=ppo",
    "train algo==ppo": "write algo=ppo",
    "train algo=ppo, env=CartPole-v1": "'algo=ppo,': write algo=ppo",
    "train -m algo=ppo, a2c": "no spaces between values: algo=ppo,a2c",
    "train ppo CartPole-v1": "write algo=ppo env=CartPole-v1",
    "train --algo ppo": "keys are written without dashes: algo=ppo",
    "train -algo=ppo": "keys are written without dashes: algo=ppo",
    "train --mulitrun": "did you mean '--multirun'?",
    "train algo.hidden=[64, 64]": "write 'algo.hidden=[64,64]'",
    "train 'algo.hidden=[64 64]'": "a list has commas: 'algo.hidden=[64,64]'",
    "train algo=“ppo”": "these quotes are typographic; write algo=ppo",
    "train “algo=ppo”": "these quotes are typographic; write algo=ppo",
    "train train algo=ppo": "'train': write train=…, a value with its key, as in seed=1",
    "train algo=ppo ,": "',': write key=value, as in seed=1",
    "train algo.hidden=[64,64": "close its brackets and quotes",
    "train 'algo.hidden=(64,64)'": "a list has square brackets: 'algo.hidden=[64,64]'",
    "train algo.hidden=64,64": "or write 'algo.hidden=[64,64]' for a list",
    "train algo.hidden=64 network=mlp": "must be a list, write 'algo.hidden=[64]'",
    "train algo=ppo algo=dqn": "algo is given twice, algo=ppo and algo=dqn: leave one out",
    "train seed=1 seed=2": "seed is given twice, seed=1 and seed=2: leave one out",
    "train help": "write deeprl train --help",
    # values
    "train algo.gamma=1.5": "algo.gamma=1.5: must be in [0, 1]",
    "train algo.gamma=0,99": "write algo.gamma=0.99",
    "train algo.lr=-1": "algo.lr=-1: must be greater than 0",
    "train algo.lr=1e–4": "write algo.lr=1e-4",
    "train algo.ent_coef=10%": "write algo.ent_coef=0.1",
    "train total_steps=1M": "write total_steps=1e6",
    "train total_timesteps=1M": "here it is total_steps=1e6",
    "train total_steps=500k": "write total_steps=5e5",
    "train total_steps=100,000": "write total_steps=100000",
    "train total_steps=-5": "total_steps=-5: must be at least 1",
    "train total_steps=0.5": "must be a whole number",
    "train log.every=0": "log.every=0: must be at least 1",
    "train log.tensorboard=yes": "write log.tensorboard=true",
    "train hardware.compile=off": "write hardware.compile=false",
    "train algo.clip_norm=None": "write algo.clip_norm=null",
    "train algo.optim=Adam": "did you mean 'adam'?",
    "train eval=false": "for example eval.every=0",
    "train network=cnn": "use network=mlp or network=auto",
    "train algo.batch_size=100": "the nearest that does is algo.batch_size=128",
    # verbs and runs
    "trian": "did you mean 'train'?",
    "algo=ppo": "needs a verb before it: deeprl train algo=ppo",
    "ppo": "write deeprl train algo=ppo",
    "CartPole-v1": "write deeprl train env=CartPole-v1",
    "enjoy runs/x": "here it is deeprl watch …",
    "version": "write deeprl --version",
    "tune algo.lr=1e-3..1e-5": "write 'algo.lr=interval(1e-5,1e-3)'",
    "tune 'algo.lr=(1e-5,1e-3)'": "write 'algo.lr=interval(1e-5,1e-3)'",
    "tune 'algo.lr=loguniform(1e-5,1e-3)'": "write 'algo.lr=interval(1e-5,1e-3)'",
    "tune n_trials=10": "did you mean 'trials'?",
    "check-algorithm nowhere.py": "nowhere.py: no such file",
    "compare empty": "nothing to compare with: name more runs, or --against RUN",
    "list algos PPO2": "did you mean 'ppo'?",
    "eval policy.onnx": "policy.onnx: no such file",
    "resume": "which run? write deeprl resume RUN, a run's folder",
    "resume total_steps=1e6": "which run? write deeprl resume RUN, a run's folder",
    "resume runs/nowhere": "runs/nowhere: no such folder, and no run below runs/ is called so",
    "resume runs": "runs: not a run (no config.yaml there): name one run, for example runs/ppo/CartPole-v1/2026",
    "eval runs/ppo": "name one run, for example runs/ppo/CartPole-v1/2026",
    "eval runs/ppo/CartPole-v1/2026/config.yaml": "is a file of a run: name its folder, runs/ppo/CartPole-v1/2026",
    "eval": "required: RUN",
    "plot": "required: RUN",
    "plot empty": "empty: no runs there",
    "list env": "choose from 'algos', 'envs', 'networks', 'hardware'",
    "list envs cartpole2": "did you mean 'CartPole-v1'?",
    "bench clasic": "did you mean 'classic'?",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run in it, and an empty one."""
    folder = tmp_path_factory.mktemp("mistakes")
    run = folder / "runs/ppo/CartPole-v1/2026"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("algo: {}\n")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def nothing_trains(place, monkeypatch):
    monkeypatch.chdir(place)
    stand_in = types.ModuleType("deeprl_cli.training.run")
    stand_in.train = stand_in.carry_out = preflight
    monkeypatch.setitem(sys.modules, "deeprl_cli.training.run", stand_in)


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_gets_one_line(nothing_trains, capsys, typed):
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(typed))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("deeprl: ")
    assert MISTAKES[typed] in line
    assert len(line) < 300


@pytest.mark.parametrize(
    "typed",
    ["total_steps=100_000", "total_steps=1e6", "'algo.hidden=[64, 64]'", "log.tensorboard=True", "algo='ppo'",
     "'run_dir=a b'", "seed=1 seed=1", "env.kwargs.sutton_barto_reward=true", "algo=ddpg env=Pendulum-v1"],
)  # fmt: skip
def test_what_is_right_is_no_mistake(nothing_trains, typed):
    main(["train", *shlex.split(typed)])


# ---- the table of others' names


def keys_of(text: str) -> set[str]:
    return {word.partition("=")[0] for word in text.replace("'", "").split() if "=" in word}


def test_whatever_is_named_exists():
    """Every key that the table says to type is one of a run's, of some algorithm."""
    from deeprl_cli.config.compose import compose_values
    from deeprl_cli.config.messages import dotted_keys

    known = set().union(*(algo_keys(name) for name in algorithm_names()), GROUPS)
    known |= {*dotted_keys(compose_values(["hardware=multiprocess"])), "env.kwargs.…"}
    texts = [text for row in ROWS for text in (*row.here, *row.values.values())]
    texts += [text for options in OPTIONS.values() for text in options.values()]
    for text in texts:
        assert keys_of(text) <= known, text
        for word in text.replace(",", "").split():
            group, _, option = word.partition("=")
            assert (
                not option or group not in ("network", "hardware", "algo", "tuned") or option in group_options(group)
            ), text


def test_a_name_stands_in_one_row():
    names = [name for row in ROWS for name in {n for library in LIBRARIES for n in row.names(library)}]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("algo", algorithm_names())
def test_what_is_advised_is_taken(algo):
    """Each name of another library gets, for each algorithm, keys that it has, or is told to be left out."""
    known = algo_keys(algo)
    for row in ROWS:
        for name in {name for library in LIBRARIES for name in row.names(library)}:
            said = other_name(name, "1", known)
            if said is None:
                assert name in ("env", "seed") or f"algo.{name}" in known
                continue
            advised = said.partition("here it is ")[2].partition(" (")[0].replace("'", "")
            assert {key for key in keys_of(advised) if key.startswith("algo.")} <= known, said
            assert advised or "leave it out" in said or row.note in said


def test_options_that_exist_are_not_renamed():
    for group in ("algo", "network", "hardware", "tuned"):
        assert not [name for name in group_options(group) if other_option(group, name)]


def test_fields_of_one_name_have_one_type():
    """`registry.check_values` checks them before the algorithm's own class is loaded."""
    for name in algorithm_names():
        own = typing.get_type_hints(get_algorithm(name).Config, include_extras=True)
        for shared in (*SHARED, OftenGiven):
            theirs = typing.get_type_hints(shared, include_extras=True)
            assert {key: own[key] for key in theirs if key in own} == {k: v for k, v in theirs.items() if k in own}


def test_kinds_of_actions_are_known_before_an_algorithm_is_loaded():
    everything = {"Discrete", "Box", "MultiDiscrete", "MultiBinary"}
    for name in algorithm_names():
        taken = {kind.__name__ for kind in get_algorithm(name).action_spaces}
        assert taken == ({ONE_KIND[name]} if name in ONE_KIND else everything)


def test_told_before_torch_is_loaded():
    """Loading it takes seconds; none of these needs it."""
    typed = [
        "train algo.lr=-1", "train algo.lrr=1", "train algo=sac", "train env.kwargs.foo=1", "train env=nowhere:Arm-v0",
        "train -m algo.lrr=1,2", "train --check algo=sac", "tune trials=0", "tune algo.lrr=interval(1,2)",
    ]  # fmt: skip
    program = f"""
import sys
sys.modules["torch"] = None
from deeprl_cli.cli import main
for typed in {typed}:
    try:
        main(typed.split())
    except SystemExit as stop:
        assert stop.code == 2, typed
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    assert [line[:8] for line in told.stderr.splitlines()] == ["deeprl: "] * len(typed)


def test_the_page_shows_the_table():
    from docs.write_coming_from import PAGE, written

    assert PAGE.read_text(encoding="utf-8") == written(PAGE.read_text(encoding="utf-8"))


# ---- numbers and ids


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1M", "1e6"), ("500k", "5e5"), ("1.5M", "1.5e6"), ("1,234,000", "1234000"), ("2.5k", "2500"),
        ("100,000", "100000"),
        ("1.000.000", "1000000"), ("100 000", "100000"), ("10%", "0.1"), ("0,99", "0.99"), ("1e–3", "1e-3"),
        ("−1", "-1"), ("3*10^-4", "3e-4"), ("10**5", "1e5"), ("2^16", "65536"), ("1/4", "0.25"), ("1E5", "1e5"),
        ("64,64", None), ("1,2", None), ("1e6", None), ("0.5", None), ("auto", None), ("1/0", None), ("64,128", None),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(text, number):
    assert meant_number(text) == number


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Half_Cheetah", "did you mean 'HalfCheetah-v5'?"),
        ("Grid-v2", "its newest version is 'Grid-v1'"),
        ("space/Grid-v2", "did you mean 'Grid-v1'?"),
        ("Maze-v0", "did you mean 'walls/Maze-v0'?"),
        ("Frogger-v4", "did you mean 'ALE/Frogger-v5'?"),
        ("FetchReach-v4", "env=gymnasium_robotics:FetchReach-v4"),
        ("highway-fast-v0", "env=highway_env:highway-fast-v0"),
        ("Quite-Another-v0", "env=module:Quite-Another-v0"),
    ],
)
def test_ids(name, said):
    ids = ["HalfCheetah-v4", "HalfCheetah-v5", "Grid-v0", "Grid-v1", "walls/Maze-v0", "Frogger-v4", "ALE/Frogger-v5"]
    assert said in advice(name, ids)
