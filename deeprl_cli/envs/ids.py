"""From an environment id to what gymnasium has registered, and from gymnasium's failures to one line of advice."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec as Registered
from gymnasium.envs.registration import load_env_creator, registry

from deeprl_cli.envs.advice import advice, newest_version, package_of
from deeprl_cli.envs.testing import register_own_envs
from deeprl_cli.errors import ConfigError, did_you_mean
from deeprl_cli.plugins.classes import load_module

# packages that register their environments when imported, by the ids that need them
_PROVIDERS = (
    (re.compile(r"^ALE/|NoFrameskip-v\d+$"), "ale_py", "atari"),
    (re.compile(r"^(MiniGrid|BabyAI)-"), "minigrid", "minigrid"),
)
# what a failed import mentions, and the extra that brings it
_EXTRAS = (
    ("box2d", "box2d"),
    ("swig", "box2d"),
    ("mujoco", "mujoco"),
    ("ale_py", "atari"),
    ("ale-py", "atari"),
    ("cv2", "atari"),
    ("opencv", "atari"),
    ("minigrid", "minigrid"),
)


def resolve(env_id: str) -> Registered:
    """The registered specification of `env_id` (`Name-v0`, `Namespace/Name-v0`, `module:Name-v0`).

    Imports the package or module that registers it. Raises ConfigError with the nearest id, the right version, or
    the package to install.
    """
    register_own_envs()
    module, colon, name = env_id.rpartition(":")
    if colon:
        load_module(module, f"env.id={env_id}", package_of(module))
    if name in registry:
        return registry[name]
    for pattern, package, extra in _PROVIDERS:
        if pattern.search(name):
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise ConfigError(f"env.id={env_id} needs {package}: pip install 'deeprl-cli[{extra}]'") from error
    if name in registry:
        return registry[name]
    with contextlib.suppress(ImportError):  # `Pong-v4` is only known to its package, and so are its neighbours
        importlib.import_module("ale_py")
    if name in registry:
        return registry[name]
    raise ConfigError(f"unknown environment '{env_id}'{advice(name, registered_ids())}")


def check_id(cfg: Mapping[str, Any]) -> None:
    """Refuse an id that nobody registered, before anything large is loaded. Raises ConfigError.

    Ids of EnvPool are its own, and a module that an id names is imported when its environment is built.
    """
    if cfg["backend"] != "envpool" and ":" not in cfg["id"]:
        resolve(cfg["id"])


def registered_ids() -> list[str]:
    """Every id that can be named as it is: gymnasium's, our own, and those of the optional packages installed."""
    register_own_envs()
    for _, package, _ in _PROVIDERS:
        with contextlib.suppress(ImportError):
            importlib.import_module(package)
    return sorted(registry)


def family(registered: Registered) -> str | None:
    """The package that an environment comes from, by its entry point: classic_control, box2d, mujoco, toy_text, …,
    atari, minigrid, or the first part of another's module; None where nothing says."""
    entry = registered.entry_point
    module = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")
    if module.startswith("gymnasium.envs."):
        name = module.split(".")[2]
        return None if name == "registration" else name
    return {"ale_py": "atari"}.get(first := module.partition(".")[0], first) or None


def metadata(env_id: str) -> dict[str, Any]:
    """What the environment's class says of itself (`metadata`), without building one. Raises ConfigError."""
    entry_point = resolve(env_id).entry_point
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return getattr(creator, "metadata", None) or {}


@contextlib.contextmanager
def quiet_construction() -> Iterator[None]:
    """Without the warnings that are advice to an environment's developer; a user can't act on them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting.*")
        warnings.filterwarnings("ignore", message=".*not in the possible render_modes.*")
        yield


@contextlib.contextmanager
def construction_errors(registered: Registered, kwargs: Mapping[str, Any], entry_point: Any = None) -> Iterator[None]:
    """Turn what building an environment raises into one line: a missing package, a wrong argument, a retired version.

    Without arguments from the user, what the environment itself raises passes through: that is its own fault.
    """
    env_id = registered.id
    try:
        with quiet_construction():
            yield
    except ConfigError:
        raise
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        text = f"{error} {error.__cause__ or ''} {registered.entry_point}".lower()
        for word, extra in _EXTRAS:
            if word in text and "gymnasium-robotics" not in text:
                raise ConfigError(f"env.id={env_id} needs a package: pip install 'deeprl-cli[{extra}]'") from error
        raise ConfigError(f"env.id={env_id} can't be built: {_first_line(error)}{_instead(env_id, error)}") from error
    except gym.error.Error as error:
        raise ConfigError(f"env.id={env_id} can't be built: {_first_line(error)}") from error
    except (TypeError, ValueError, KeyError, AssertionError, AttributeError) as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown and unknown[1] == "render_mode":
            raise ConfigError(f"env.id={env_id} can't render: no video of it can be made") from error
        if not kwargs:
            raise
        if unknown and unknown[1] in kwargs:
            accepted = _parameters(entry_point if entry_point is not None else registered.entry_point)
            known = f"; it takes {', '.join(accepted)}" if accepted else "; it takes none"
            near = did_you_mean(unknown[1], accepted)
            raise ConfigError(f"env.kwargs.{unknown[1]}: '{env_id}' doesn't take it{near or known}") from error
        given = ", ".join(f"{key}={value}" for key, value in kwargs.items())
        raise ConfigError(f"env.kwargs: '{env_id}' refuses {given}: {_first_line(error)}") from error


def _instead(env_id: str, error: BaseException) -> str:
    """` Use env=Hopper-v5` for a version that moved away; else the package that is missing."""
    moved = env_id in registry and callable(registry[env_id].entry_point)
    if moved and (newest := newest_version(env_id, registry)) != env_id:
        return f" Use env={newest}"
    return f": pip install {error.name}" if isinstance(error, ModuleNotFoundError) and error.name else ""


def _parameters(entry_point: Any) -> list[str]:
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(creator).parameters.values()
    return [p.name for p in parameters if p.kind in kinds and p.name not in ("render_mode", "num_envs")]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
