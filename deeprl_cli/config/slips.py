"""Typing mistakes that can be seen in the words alone. Each gets one line, before Hydra reads anything."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Collection, Sequence

from deeprl_cli.config.elsewhere import other_name, row_of, typed_here
from deeprl_cli.config.files import ENV_ID, GROUPS, algo_keys, group_options
from deeprl_cli.errors import ConfigError
from deeprl_cli.schema.numbers import meant_number

_CLOSES = {"[": "]", "{": "}", "(": ")"}
_WORD = re.compile(r"[\w.,/:-]+")
_QUOTES = str.maketrans(dict.fromkeys("“”„‘’‚«»", ""))


def refuse_slips(words: Sequence[str]) -> None:
    """Raise ConfigError for `algo = ppo`, `algo ppo`, `ppo CartPole-v1`, `algo:ppo`, `algo.hidden=[64, 64]`
    and the like."""
    _spaces_around_equals(words)
    _spaces_inside_brackets(words)
    for word, following in itertools.pairwise(words):
        if word in GROUPS and _WORD.fullmatch(following):
            raise ConfigError(f"'{word} {following}': write {word}={following}")
    _without_a_key(words)
    for word in words:
        _refuse_one(word)


def _refuse_one(word: str) -> None:
    """`help`, typographic quotes, `seed=0..4`, `algo.hidden=[64 64]`, `env.kwargs.render_mode=human`, `log=wandb`,
    `save=true` and `sweep_dir=…`."""
    if word in ("help", "?"):
        raise ConfigError(f"'{word}': write deeprl train --help")
    if (plain := word.translate(_QUOTES)) != word:
        raise ConfigError(f"'{word}': these quotes are typographic; write {plain}, with ' or \" around spaces")
    if match := re.fullmatch(r"([\w.]+)=\[(\d+(?: +\d+)+)\]", word):
        raise ConfigError(f"'{word}': a list has commas: '{match[1]}=[{','.join(match[2].split())}]'")
    if match := re.fullmatch(r"seeds?=\[?(\d+)\s*(?:-|:|\.{2,3}|…)\s*(\d+)\]?", word):
        first, last = int(match[1]), int(match[2])
        span = f"range({last + 1})" if first == 0 else f"range({first},{last + 1})"
        together = f"seeds={last - first + 1}" if first == 0 else f"seed={first} seeds={last - first + 1}"
        raise ConfigError(f"'{word}': write {together} to train them together, or -m seed='{span}' for one run of each")
    if match := re.fullmatch(r"seeds?=\[([\d, ]+)\]", word):
        raise ConfigError(
            f"'{word}': seed is one number; for one run of each, write -m seed={match[1].replace(' ', '')}"
        )
    if re.fullmatch(r"\+*env\.kwargs\.render_mode=['\"]?human['\"]?", word):
        raise ConfigError(f"'{word}': training opens no window; to see the trained policy: deeprl watch RUN")
    if match := re.fullmatch(r"log=(wandb|mlflow|trackio)", word):
        raise ConfigError(f"'{word}': write log.to=[tensorboard,{match[1]}]")
    if re.fullmatch(r"save=\w+", word):
        raise ConfigError(f"'{word}': the last weights and the best ones are always kept: leave it out")
    if match := re.fullmatch(r"sweep_?dir=(.+)", word):
        raise ConfigError(f"'{word}': write hydra.sweep.dir={match[1]}")


def _spaces_around_equals(words: Sequence[str]) -> None:
    for place, word in enumerate(words):
        before, after = (words[place - 1] if place else ""), " ".join(words[place + 1 : place + 2])
        if word == "=" and before and after:
            raise _no_spaces(f"{before} = {after}", f"{before}={after}")
        if word.endswith("=") and word != "=" and after and not re.search(r"[=~]", after):
            raise _no_spaces(f"{word} {after}", f"{word}{after}")
        if "=" in word and word.endswith(",") and not _open(word) and after and "=" not in after:
            raise ConfigError(f"'{word} {after}': no spaces between values: {word}{after}")
        if re.fullmatch(r"=[^=].*", word) and before and "=" not in before:
            raise _no_spaces(f"{before} {word}", f"{before}{word}")


def _no_spaces(typed: str, meant: str) -> ConfigError:
    return ConfigError(f"'{typed}': no spaces around the equals sign: {shlex.quote(meant)}")


def _spaces_inside_brackets(words: Sequence[str]) -> None:
    """`algo.hidden=[64, 64]`, which the shell splits at the space."""
    for place, word in enumerate(words):
        if "=" not in word or not _open(word):
            continue
        for end in range(place + 2, len(words) + 1):
            if any(re.match(r"[\w.]+=", later) for later in words[place + 1 : end]):
                break  # here the next override begins: a bracket is missing
            if not _open(" ".join(words[place:end])):
                raise ConfigError(
                    f"'{' '.join(words[place:end])}': the shell splits a value at its spaces: write "
                    f"{shlex.quote(''.join(words[place:end]))}"
                )


def _open(text: str) -> int:
    """The number of brackets that are still open at the end."""
    return sum(text.count(bracket) - text.count(other) for bracket, other in _CLOSES.items())


def _without_a_key(words: Sequence[str]) -> None:
    """`ppo CartPole-v1`, `algo:ppo`."""
    meant = {word: option(word) for word in words if "=" not in word and not word.startswith("~")}
    found = {word: text for word, text in meant.items() if text is not None}
    if found:
        raise ConfigError(f"'{' '.join(found)}': write {' '.join(found.values())}")


def option(word: str) -> str | None:
    """The group=option that a single word means, or None."""
    group, colon, name = word.partition(":")
    if colon and group in (*GROUPS, "seed", "seeds", "total_steps"):
        return f"{group}={name}"
    for group in ("algo", "network", "hardware"):
        if word.lower() in group_options(group):
            return f"{group}={word.lower()}"
    return f"env={word}" if ENV_ID.fullmatch(word) else None


def refuse_twice(words: Sequence[str]) -> None:
    """Raise ConfigError for a key typed twice, because the last value would win silently.

    This is for what a person types. Programs may add overrides of their own.
    """
    seen: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals and seen.setdefault(key, value) != value:
            raise ConfigError(f"{key} is given twice, {key}={seen[key]} and {word}: leave one out")


def without_dashes(words: Sequence[str], flags: Collection[str]) -> tuple[list[str], list[str]]:
    """For `--env-id CartPole-v1 --learning-rate=1e-3`: each as typed, and each as it should be written. `flags` are the
    ones that exist. Raises ConfigError for what doesn't exist here."""
    typed: list[str] = []
    pairs: list[tuple[str, str]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not re.match(r"--[A-Za-z]|-[A-Za-z][\w.-]", word) or word.partition("=")[0] in flags:
            continue
        name, equals, value = word.lstrip("-").replace("-", "_").partition("=")
        value = word.partition("=")[2]
        if not equals and rest and "=" not in rest[0] and not rest[0].startswith("-"):
            value = rest.pop(0)
            word = f"{word} {value}"
        typed.append(word)
        pairs.append((name, value or "true"))
    chosen = [value for key, value in pairs if key == "algo"] + [w[5:] for w in words if w.startswith("algo=")]
    known = algo_keys(chosen[0] if chosen else "ppo")
    return typed, [_as_key(name, value, word, known) for (name, value), word in zip(pairs, typed, strict=True)]


def _as_key(name: str, value: str, typed: str, known: Collection[str]) -> str:
    row = row_of(name)
    words = typed_here(row, value, known) if row else None
    if row and words is None:
        raise ConfigError(f"'{typed}': {other_name(name, value, known)}")
    return words or shlex.quote(f"algo.{name}={value}" if f"algo.{name}" in known else f"{name}={value}")


def unread(text: str) -> ConfigError:
    """The message for an override that Hydra's grammar can't read."""
    key, _, value = text.partition("=")
    if not re.fullmatch(r"[~+]{0,2}[\w./@:-]+", key):
        return ConfigError(f"'{text}': a key is words joined by dots, and '{key}' isn't one")
    if (bare := value.strip("=,; ")) != value and re.fullmatch(r"[\w.+/:-]+|[\[{].*[\]}]", bare):
        return ConfigError(f"'{text}': write {shlex.quote(f'{key}={bare}')}")
    if (number := meant_number(value)) is not None:
        return ConfigError(f"'{text}': write {key}={number}")
    if re.fullmatch(r"\([\w.+, -]*\)", value):
        return ConfigError(f"'{text}': a list has square brackets: {shlex.quote(f'{key}=[{value[1:-1]}]')}")
    if value.startswith("dict("):
        return ConfigError(f"'{text}': give each part a key of its own: env.kwargs.map_name=8x8, 'algo.hidden=[64,64]'")
    mend = f"close its brackets and quotes, or quote it whole: \"{key}='…'\""
    return ConfigError(f"can't read the value in '{text}': {mend}")


def several(key: str, value: str, listable: bool) -> ConfigError:
    """The message for `seed=1,2`: several values, where a run takes one."""
    text = f"{key}={value}"
    if (number := meant_number(value)) is not None:
        return ConfigError(f"'{text}' would be several values: write {key}={number}")
    if key == "seeds" and (span := re.fullmatch(r"range\((\d+)\)", value)):
        return ConfigError(f"'{text}': seeds is how many train together: write seeds={span[1]}")
    if key == "seeds" and re.fullmatch(r"\d+(,\d+)*", value):
        together = f"seeds={value.count(',') + 1}"
        return ConfigError(
            f"'{text}': seeds is how many train together, {together}; for one run of each, -m seed={value}"
        )
    as_list = f", or write '{key}=[{value}]' for a list" if listable else ""
    return ConfigError(f"'{text}' is several values: add -m to run one job for each{as_list}")
