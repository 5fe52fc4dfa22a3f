"""The names of other libraries, and what to type here instead: Stable-Baselines3 (with RL Zoo and contrib), CleanRL
and RLlib.

An unknown key is looked up in this table. docs/coming_from.md shows it (`python -m docs.write_coming_from`).
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from deeprl_cli.errors import nearest
from deeprl_cli.schema.numbers import meant_number

LIBRARIES = {"sb3": "Stable-Baselines3", "cleanrl": "CleanRL", "rllib": "RLlib"}
PARENTS = ("", "algo", "args", "config", "hardware", "model", "policy_kwargs", "replay_buffer_config", "training")


@dataclass(frozen=True)
class Name:
    """One option, and its names in other libraries, separated by spaces. `here`: what to type, with `{}` for the value;
    if there are several, the first whose keys the algorithm has. If it is empty, the option doesn't exist here, and
    `note` says what to do. `values`: what to type for certain values."""

    here: tuple[str, ...] = ()
    sb3: str = ""
    cleanrl: str = ""
    rllib: str = ""
    note: str = ""
    values: Mapping[str, str] = field(default_factory=dict)

    def names(self, library: str) -> list[str]:
        found: str = getattr(self, library)
        return found.split()


def _key(*here: str, sb3: str = "", cleanrl: str = "", rllib: str = "", note: str = "", **values: str) -> Name:
    return Name(here, sb3, cleanrl, rllib, note, values)


def _none(note: str, *, sb3: str = "", cleanrl: str = "", rllib: str = "") -> Name:
    return Name((), sb3, cleanrl, rllib, note)


DEVICES = {
    "cuda": "hardware=cuda", "gpu": "hardware=cuda", "cpu": "hardware=cpu", "mps": "hardware=cpu",
    "auto": "hardware=cpu",
}  # fmt: skip
RATES = ("algo.lr={}", "algo.lr_actor={} algo.lr_critic={} algo.lr_alpha={}", "algo.lr_actor={} algo.lr_critic={}")

TABLE: dict[str, tuple[Name, ...]] = {
    "The run": (
        _key("env={}", sb3="env env_name", cleanrl="env_id", rllib="env"),
        _key("env.kwargs.…=…", sb3="env_kwargs", rllib="env_config", note="one key for each argument"),
        _key("total_steps={}", sb3="total_timesteps n_timesteps timesteps", cleanrl="total_timesteps",
             rllib="timesteps_total num_env_steps_sampled_lifetime", note="environment steps of one seed"),
        _key("total_steps=…", cleanrl="num_iterations", rllib="stop training_iteration",
             note="environment steps of one seed"),
        _key("seed={}", sb3="seed", cleanrl="seed", rllib="seed"),
        _key("hardware=cuda", sb3="device", cleanrl="cuda",
             rllib="num_gpus num_gpus_per_learner num_gpus_per_worker",
             **DEVICES, true="hardware=cuda", false="hardware=cpu", **{"0": "hardware=cpu"}),
        _key("hardware.threads={}", sb3="num_threads"),
        _key("hardware=multiprocess hardware.ranks={}", rllib="num_learners"),
        _key("run_dir={}", sb3="tensorboard_log log_folder save_path", cleanrl="exp_name",
             rllib="storage_path local_dir", note="TensorBoard's event files are always written into it"),
        _key("log.every={}", sb3="log_interval"),
        _key("init_from={}", sb3="trained_agent", rllib="restore",
             note="starts with its weights; deeprl resume RUN goes on with the run itself"),
        _none("a run always shows its progress: leave it out", sb3="verbose progress_bar progress",
              rllib="log_level"),
        _none("a seed always gives the same numbers: leave it out", cleanrl="torch_deterministic"),
        _key("log.to=[wandb]", sb3="track wandb", cleanrl="track"),
        _key("log.project={}", sb3="wandb_project_name", cleanrl="wandb_project_name"),
        _none("set W&B's environment variable WANDB_ENTITY instead", sb3="wandb_entity", cleanrl="wandb_entity"),
        _none("weights are always kept, best and last: leave it out", sb3="save_vecnormalize",
              cleanrl="save_model"),
        _none("nothing is uploaded: leave it out", cleanrl="upload_model hf_entity"),
        _none("deeprl tune draws by TPE, after a Sobol start: leave it out", sb3="sampler"),
        _none("everything runs on PyTorch: leave it out", rllib="framework framework_str"),
    ),
    "Environments": (
        _key("algo.num_envs={}", sb3="n_envs", cleanrl="num_envs",
             rllib="num_envs_per_env_runner num_envs_per_worker", note="of each seed"),
        _key("env.backend=async algo.num_envs={}", rllib="num_env_runners num_workers num_rollout_workers",
             note="environments in processes of their own"),
        _key("env.backend=async", sb3="vec_env vec_env_cls vec_env_type", dummy="env.backend=sync",
             subproc="env.backend=async", DummyVecEnv="env.backend=sync", SubprocVecEnv="env.backend=async"),
        _key("env.frame_stack={}", sb3="frame_stack n_stack", rllib="framestack num_framestacks"),
        _key("env.max_episode_steps={}", sb3="max_episode_steps time_limit", rllib="horizon soft_horizon"),
        _key("algo.normalize_obs={} algo.normalize_reward={}", sb3="normalize"),
        _key("algo.normalize_obs={}", sb3="norm_obs", rllib="observation_filter",
             MeanStdFilter="algo.normalize_obs=true", NoFilter="algo.normalize_obs=false"),
        _key("algo.normalize_reward={}", sb3="norm_reward"),
        _key("env.atari.clip_reward={}", rllib="clip_rewards"),
        _key("'env.wrappers=[…]'", sb3="env_wrapper", note="module:Class, or {class: module:Class, kwargs: {…}}"),
        _none("import the module that registers it with the id: env=module:Id-v0", sb3="gym_packages"),
        _none("actions are always scaled to the environment's bounds: leave it out",
              rllib="normalize_actions clip_actions"),
    ),
    "Evaluation, checkpoints": (
        _key("eval.every={}", sb3="eval_freq", rllib="evaluation_interval", note="counts steps"),
        _key("eval.episodes={}", sb3="n_eval_episodes eval_episodes", rllib="evaluation_duration"),
        _key("checkpoint.every={}", sb3="save_freq", rllib="checkpoint_freq checkpoint_frequency", note="counts steps"),
        _key("'callbacks=[…]'", sb3="callback callbacks", rllib="callbacks_class", note="docs/extending.md"),
        _key("stop.return={}", sb3="reward_threshold", rllib="episode_return_mean", note="the IQM over seeds"),
        _key("stop.plateau={}", sb3="max_no_improvement_evals", note="counts evaluations"),
        _key("stop.minutes=…", rllib="time_total_s", note="in minutes"),
        _key("checkpoint.replay={}", sb3="save_replay_buffer", rllib="store_buffer_in_checkpoints"),
        _none("deeprl watch RUN shows the trained policy: leave it out", sb3="render render_mode",
              cleanrl="capture_video", rllib="render_env record_env"),
        _none("deeprl eval acts with the policy's mode, and samples with --stochastic", sb3="deterministic stochastic",
              rllib="explore"),
    ),
    "Networks": (
        _key("network=auto", sb3="policy", MlpPolicy="network=mlp", CnnPolicy="network=cnn",
             MultiInputPolicy="network=auto", note="mlp, cnn, linear, tabular or transformer"),
        _key("algo.hidden={}", sb3="net_arch", rllib="fcnet_hiddens hiddens head_fcnet_hiddens",
             note="widths of the hidden layers, '[64,64]'"),
        _key("algo.activation={}", sb3="activation_fn", rllib="fcnet_activation head_fcnet_activation",
             note="relu, tanh, gelu or silu"),
        _none("give its parts: 'algo.hidden=[64,64]' algo.activation=tanh", sb3="policy_kwargs", rllib="model_config"),
        _key("network.share={}", sb3="share_features_extractor", rllib="vf_share_layers"),
        _key("algo.orthogonal={}", sb3="ortho_init"),
        _key("algo.log_std_init={}", "algo.sde.log_std_init={}", sb3="log_std_init"),
        _none("bytes of images are always divided by the space's bound: leave it out", sb3="normalize_images"),
        _none("networks are chosen by network=…: docs/networks.md",
              sb3="features_extractor_class features_extractor_kwargs", rllib="custom_model conv_filters"),
        _none("there are no recurrent networks: env.frame_stack=4 shows the last steps", sb3="lstm_hidden_size",
              rllib="use_lstm lstm_cell_size max_seq_len"),
    ),
    "Optimisation": (
        _key(*RATES, "algo.lr_critic={}", sb3="learning_rate", cleanrl="learning_rate", rllib="lr"),
        _key("algo.lr_actor={}", "algo.lr={}", cleanrl="policy_lr", rllib="actor_lr"),
        _key("algo.lr_critic={}", "algo.lr={}", cleanrl="q_lr", rllib="critic_lr"),
        _key("algo.lr_alpha={}", rllib="alpha_lr"),
        _key("algo.lr_schedule=linear", cleanrl="anneal_lr", rllib="lr_schedule", true="algo.lr_schedule=linear",
             false="algo.lr_schedule=constant"),
        _key("algo.clip_norm={}", sb3="max_grad_norm", cleanrl="max_grad_norm", rllib="grad_clip"),
        _key("algo.clip_norm=…", rllib="grad_clip_by", value="algo.clip_value=…", note="or algo.clip_value=… for each"),
        _key("algo.optim_eps={}", sb3="rms_prop_eps", rllib="adam_epsilon"),
        _key("algo.optim=rmsprop", sb3="use_rms_prop", true="algo.optim=rmsprop", false="algo.optim=adam"),
        _key("algo.optim=adam", sb3="optimizer_class", rllib="optimizer", note="adam, rmsprop, rmsprop_tf or sgd"),
        _key("algo.batch_size={}", sb3="batch_size", cleanrl="minibatch_size batch_size",
             rllib="minibatch_size sgd_minibatch_size"),
        _key("algo.num_envs=… algo.rollout_length=…", "algo.batch_size={}",
             rllib="train_batch_size train_batch_size_per_learner",
             note="on-policy: their product is the batch of an update"),
        _key("algo.batch_size=…", cleanrl="num_minibatches",
             note="algo.num_envs x algo.rollout_length divided by the number of minibatches"),
        _key("algo.epochs={}", sb3="n_epochs", cleanrl="update_epochs", rllib="num_epochs num_sgd_iter"),
        _key("algo.gamma={}", sb3="gamma", cleanrl="gamma", rllib="gamma"),
    ),
    "On-policy": (
        _key("algo.rollout_length={}", sb3="n_steps", cleanrl="num_steps", rllib="rollout_fragment_length",
             note="of each environment; replay memories learn from single steps"),
        _key("algo.gae_lambda={}", sb3="gae_lambda", cleanrl="gae_lambda", rllib="lambda lambda_"),
        _key("algo.advantage=gae", rllib="use_gae", true="algo.advantage=gae", false="algo.advantage=mc"),
        _key("algo.clip_eps={}", sb3="clip_range", cleanrl="clip_coef", rllib="clip_param"),
        _key("algo.normalize_advantage={}", sb3="normalize_advantage", cleanrl="norm_adv"),
        _key("algo.ent_coef={}", "algo.alpha={}", sb3="ent_coef", cleanrl="ent_coef", rllib="entropy_coeff"),
        _key("algo.vf_coef={}", sb3="vf_coef", cleanrl="vf_coef", rllib="vf_loss_coeff"),
        _key("algo.kl.mode=stop algo.kl.target={}", "algo.max_kl={}", sb3="target_kl", cleanrl="target_kl",
             note="ends a rollout's epochs"),
        _key("algo.kl.mode=penalty algo.kl.coef={}", "algo.kl.coef={}", rllib="kl_coeff"),
        _key("algo.kl.mode=penalty algo.kl.adaptive=true algo.kl.target={}", rllib="kl_target"),
        _key("algo.kl.mode=penalty", rllib="use_kl_loss", true="algo.kl.mode=penalty", false="algo.kl.mode=none"),
        _none("nothing clips the value's loss: leave it out", sb3="clip_range_vf", cleanrl="clip_vloss",
              rllib="vf_clip_param"),
        _key("algo.sde.enabled={}", sb3="use_sde", note="state-dependent exploration"),
        _key("algo.sde.sample_every={}", sb3="sde_sample_freq"),
        _key("algo.sde.warm_up={}", sb3="use_sde_at_warmup"),
        _none("state-dependent exploration (algo.sde.enabled) is RL Zoo's, without this option: leave it out",
              sb3="full_std use_expln squash_output"),
        _none("minibatches are drawn anew in each epoch: leave it out", rllib="shuffle_batch_per_epoch"),
        _none("algo=a2c and algo=ppo have a critic, algo=reinforce algo.baseline=none has none", rllib="use_critic"),
        _key("algo.sub_sampling={}", sb3="sub_sampling_factor"),
        _key("algo.cg_iterations={}", sb3="cg_max_steps"),
        _key("algo.cg_damping={}", sb3="cg_damping"),
        _key("algo.backtrack_steps={}", sb3="line_search_max_iter"),
        _key("algo.backtrack_ratio={}", sb3="line_search_shrinking_factor"),
        _key("algo.epochs={}", sb3="n_critic_updates"),
    ),
    "Off-policy": (
        _key("algo.buffer_capacity={}", sb3="buffer_size", cleanrl="buffer_size", rllib="capacity buffer_size"),
        _key("algo.learning_starts={}", sb3="learning_starts", cleanrl="learning_starts",
             rllib="num_steps_sampled_before_learning_starts"),
        _key("algo.train_every={}", sb3="train_freq", cleanrl="train_frequency"),
        _key("algo.gradient_steps={}", sb3="gradient_steps", rllib="training_intensity"),
        _key("algo.target_update=polyak algo.rho=null algo.tau={}", "algo.rho=null algo.tau={}", sb3="tau",
             cleanrl="tau", rllib="tau", note="or algo.rho=… for 1 - tau",
             **{"1": "algo.target_update=hard", "1.0": "algo.target_update=hard"}),
        _key("algo.target_every={}", sb3="target_update_interval", cleanrl="target_network_frequency",
             rllib="target_network_update_freq", note="dqn, async_q; the others move their targets with each update"),
        _key("algo.epsilon.fraction={}", sb3="exploration_fraction", cleanrl="exploration_fraction"),
        _key("algo.epsilon.start={}", sb3="exploration_initial_eps", cleanrl="start_e", rllib="initial_epsilon"),
        _key("algo.epsilon.end={}", sb3="exploration_final_eps", cleanrl="end_e", rllib="final_epsilon"),
        _key("algo.epsilon.fraction=…", rllib="epsilon_timesteps", note="of total_steps"),
        _key("algo.double=double", rllib="double_q", true="algo.double=double", false="algo.double=none"),
        _key("algo.critics={}", sb3="n_critics", rllib="twin_q", true="algo.critics=2", false="algo.critics=1"),
        _key("algo.exploration.kind=gaussian", sb3="action_noise noise_type", rllib="exploration_config",
             normal="algo.exploration.kind=gaussian", NormalActionNoise="algo.exploration.kind=gaussian",
             OrnsteinUhlenbeckActionNoise="algo.exploration.kind=ou"),
        _key("algo.exploration.sigma={}", sb3="noise_std", cleanrl="exploration_noise"),
        _key("algo.policy_delay={}", sb3="policy_delay", cleanrl="policy_frequency", rllib="policy_delay"),
        _key("algo.target_noise={}", sb3="target_policy_noise", cleanrl="policy_noise", rllib="target_noise"),
        _key("algo.target_noise_clip={}", sb3="target_noise_clip", cleanrl="noise_clip", rllib="target_noise_clip"),
        _key("algo.alpha={}", cleanrl="alpha"),
        _key("algo.alpha=auto", cleanrl="autotune", true="algo.alpha=auto", false="algo.alpha=0.2"),
        _key("algo.alpha_init={}", rllib="initial_alpha"),
        _key("algo.target_entropy={}", sb3="target_entropy", rllib="target_entropy"),
        _none("replay memories learn from single steps: leave it out", rllib="n_step"),
        _none("the only replay memory draws uniformly and stores each frame once: leave it out",
              sb3="replay_buffer_class replay_buffer_kwargs optimize_memory_usage"),
        _none("there are no dueling, noisy or distributional Q-networks: leave it out",
              cleanrl="n_atoms v_min v_max", rllib="dueling noisy sigma0 num_atoms v_min v_max"),
    ),
}  # fmt: skip
ROWS = tuple(row for rows in TABLE.values() for row in rows)

# options of a group that go by other names
OPTIONS: dict[str, dict[str, str]] = {
    "algo": {
        "ddqn": "algo=dqn algo.double=double", "double_dqn": "algo=dqn algo.double=double",
        "q_learning": "algo=dqn", "async_dqn": "algo=async_q", "vpg": "algo=reinforce", "pg": "algo=reinforce",
        "ac": "algo=actor_critic", "marwil": "algo=bc", "behavior_cloning": "algo=bc", "imitation": "algo=bc",
        "ppo2": "algo=ppo", "ppo_clip": "algo=ppo", "proximal_policy_optimization": "algo=ppo",
        "soft_actor_critic": "algo=sac",
    },
    "network": {
        **dict.fromkeys(("lstm", "gru", "rnn"), "network=mlp env.frame_stack=4 (the last steps as one observation)"),
        "resnet": "network=cnn", "impala": "network=cnn", "conv": "network=cnn",
        "mlppolicy": "network=mlp", "cnnpolicy": "network=cnn", "multiinputpolicy": "network=auto",
        "default": "network=auto", "table": "network=tabular",
    },
    "hardware": {"gpu": "hardware=cuda", "mps": "hardware=cpu (Apple's GPU isn't used)",
                 "tpu": "hardware=cpu (TPUs aren't used)",
                 "auto": "hardware=cpu, or hardware=cuda", "multi": "hardware=multiprocess",
                 "ddp": "hardware=multiprocess hardware.ranks=2"},
    "tuned": {"false": "tuned=none", "off": "tuned=none", "no": "tuned=none"},
}  # fmt: skip


def other_name(key: str, value: str, known: Collection[str]) -> str | None:
    """What to say of another library's name for a key: `that is its name in Stable-Baselines3; here it is
    algo.rollout_length=2048`. None if no library has it. `known`: the dotted keys of the run."""
    parent, _, leaf = key.strip("-").replace("-", "_").rpartition(".")
    row = row_of(leaf)
    if row is None or parent not in PARENTS:
        return None
    if row.here[:1] in ((f"{leaf}={{}}",), (f"algo.{leaf}={{}}",)) and {leaf, f"algo.{leaf}"} & set(known):
        return None  # the same name, only its group is missing or one too many
    whose = [name for library, name in LIBRARIES.items() if leaf in row.names(library)]
    said = f"that is its name in {', '.join(whose[:-1])}{' and ' * (len(whose) > 1)}{whose[-1]}"
    if words := typed_here(row, value, known):
        return f"{said}; here it is {words}{f' ({row.note})' if row.note else ''}"
    if row.here:
        needed = sorted({word.partition("=")[0] for here in row.here for word in here.split()})
        return f"{said}; this run's algorithm has no {' or '.join(needed)}: leave it out"
    return f"{said}; here {row.note}"


def near_name(key: str, value: str, known: Collection[str]) -> str | None:
    """The same for a misspelt name: `learnin_rate`."""
    parent, _, leaf = key.rpartition(".")
    names = [name for row in ROWS for library in LIBRARIES for name in row.names(library)]
    found = nearest(leaf, names, cutoff=0.85)
    said = other_name(f"{parent}.{found[0]}" if parent else found[0], value, known) if found else None
    return f"'{found[0]}'? {said[0].upper()}{said[1:]}" if said else None


def row_of(name: str) -> Name | None:
    return next((row for row in ROWS if any(name in row.names(library) for library in LIBRARIES)), None)


def typed_here(row: Name, value: str, known: Collection[str]) -> str | None:
    """What to type for `value`, quoted for the shell; None where the algorithm has no such key."""
    given = row.values.get(value) or row.values.get(value.lower())
    for here in [given, *row.here] if given else row.here:
        words = [word.replace("{}", meant_number(value) or value or "…") for word in here.split()]
        keys = [word.partition("=")[0] for word in words]
        if all(key in known or not key.startswith("algo.") for key in keys):
            return " ".join(word if "…" in word else shlex.quote(word) for word in words)
    return None


def other_option(group: str, name: str) -> str | None:
    """`hardware=cuda` for gpu."""
    plain = name.lower().partition(":")[0].replace("-", "_")
    return OPTIONS.get(group, {}).get(plain)
