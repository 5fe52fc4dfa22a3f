"""Makes every gymnasium id an option of Hydra's group `env`, with or without a YAML file, and gives it tuned values.

A ConfigSource of scheme `gym` comes after the configuration folders, so a file `env/<Id>.yaml` wins. An id without a
file gets the values that all environments share (`configs/env.yaml`, or `configs/atari.yaml` for an Atari id). A pair
without tuned values gets those of another version of the environment, or of its family (`config/tuned.py`). An
algorithm in a file or module of the user's gets the values beside it.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from deeprl_cli.config.files import ENV_ID
from deeprl_cli.config.tuned import ATARI_ID, find_tuned, tuned_path
from deeprl_cli.errors import ConfigError
from deeprl_cli.plugins.files import in_full, is_source, short, yaml_of
from deeprl_cli.plugins.installed import config_folders

SOURCE = "gym://"
PROVIDER = "deeprl"
_EXTENSION = ".yaml"
_GROUP = "env"


def unknown(name: str) -> ConfigError:
    """The message for a name that isn't written like an id, and has no file."""
    from deeprl_cli.envs.advice import advice
    from deeprl_cli.envs.ids import registered_ids

    return ConfigError(f"unknown env '{name}'{advice(name, registered_ids())}; `deeprl list envs` shows what there is")


class GymConfigSource(ConfigSource):
    """`gym://`: one configuration for each environment id, made when asked for."""

    # listing imports gymnasium; only shell completion needs it
    offer_ids = False

    @staticmethod
    def scheme() -> str:
        return "gym"

    def load_config(self, config_path: str) -> ConfigResult:
        tuned = _tuned_name(config_path)
        if tuned is not None:
            return self._result(OmegaConf.load(tuned_path(tuned)), "_global_")
        source = _source_name(config_path)
        if source is not None:
            return self._result(_of_source(source), None)
        name = _env_name(config_path)
        if name is None:
            raise ConfigLoadError(f"Config not found : {config_path}")
        values: dict[str, Any] = {"id": name}
        atari = ATARI_ID.fullmatch(name)
        if atari and atari["ale"]:
            # the ids under ALE/ skip frames themselves; the preprocessing does it, with a maximum over two frames
            values["kwargs"] = {"frameskip": 1}
        base = "/atari@_here_" if atari else "/env@_here_"
        _, _, own = name.partition(":")
        if ENV_ID.fullmatch(own):
            base = f"/env/{own}@_here_"  # module:Id takes the values of env/<Id>.yaml, or those made for Id
        return self._result(OmegaConf.create({"defaults": [base, "_self_"], **values}), None)

    def _result(self, config: Any, package: str | None) -> ConfigResult:
        return ConfigResult(config=config, path=self.full_path(), provider=self.provider, header={"package": package})

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path.strip("/") == _GROUP

    def is_config(self, config_path: str) -> bool:
        names = _env_name(config_path), _tuned_name(config_path), _source_name(config_path)
        return any(name is not None for name in names)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        wanted = self.offer_ids and self.is_group(config_path) and results_filter != ObjectType.GROUP
        if not wanted:
            return []
        from deeprl_cli.envs.ids import registered_ids

        return registered_ids()


class GymSearchPath(SearchPathPlugin):
    """Appends the folders of plug-ins to every search path, and `gym://` after all folders."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in config_folders():
            search_path.append(provider=PROVIDER, path=f"file://{folder}")
        search_path.append(provider=PROVIDER, path=SOURCE)


def register() -> None:
    """Make both known to Hydra. Call it before Hydra is initialised; calling it again does no harm."""
    for plugin in (GymConfigSource, GymSearchPath):
        Plugins.instance().register(plugin)


def _source_name(config_path: str) -> str | None:
    """The file or module of an algorithm that `algo=` names: `./my_algo.py`, `my_package.my_algo`."""
    group, _, name = config_path.lstrip("/").removesuffix(_EXTENSION).partition("/")
    return name if group == "algo" and is_source(name) else None


def _of_source(name: str) -> Any:
    """Its values: the YAML file beside it, or `algo/<name>.yaml` of a folder that is searched (`--config-dir`)."""
    named = {"name": in_full(name)}
    if (beside := yaml_of(name)) is not None:
        return OmegaConf.merge(OmegaConf.load(beside), named)
    return OmegaConf.create({"defaults": [f"/algo/{short(name)}@_here_", "_self_"], **named})


def _env_name(config_path: str) -> str | None:
    group, _, name = config_path.strip("/").removesuffix(_EXTENSION).partition("/")
    return name if group == _GROUP and ENV_ID.fullmatch(name) else None


def _tuned_name(config_path: str) -> str | None:
    group, _, pair = config_path.strip("/").removesuffix(_EXTENSION).partition("/")
    algo, _, env_id = pair.partition("/")
    return find_tuned(algo, env_id) if group == "tuned" and ENV_ID.fullmatch(env_id) else None
