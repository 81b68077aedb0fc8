"""Checking a composed configuration before any work, and what a run directory is called.

A YAML node with ``_target_`` is checked against the signature of what it builds: unknown and missing arguments, and the
type of every value. Ranges are checked by the constructors themselves, which are cheap and run right after.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import inspect
import json
import pydoc
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from uqbench.errors import ConfigError, UqbenchError

SECTIONS = {"experiment", "scale", "method", "backbone", "data", "trainer", "optim", "callbacks", "logger"}
SCALARS: dict[str, type] = {"seed": int, "force": bool, "output_dir": str, "select": str}
DERIVED = {"run_dir", "run_id", "group"}
NOT_PART_OF_THE_RUN = ("force", "output_dir", "logger", "callbacks.figures", "data.num_workers",
                       "trainer.accelerator", "trainer.devices", "trainer.enable_progress_bar", *DERIVED)  # fmt: skip


def check_config(cfg: DictConfig) -> None:
    """Refuses a configuration that cannot work, and fills in ``run_dir``, ``run_id`` and ``group``.

    Raises:
        ConfigError: one line with the key, what is wrong with it, and what is allowed.
    """
    known = SECTIONS | SCALARS.keys() | DERIVED
    for key in cfg:
        if key not in known:
            raise ConfigError(f"unknown key {key!r}{_hint(str(key), known)}")
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(plain, dict)
    for key, kind in SCALARS.items():
        if type(plain.get(key)) is not kind:
            raise ConfigError(f"{key} must be {kind.__name__}, got {plain.get(key)!r}")
    if plain["seed"] < 0:
        raise ConfigError(f"seed must not be negative, got {plain['seed']}")
    if plain["select"] not in ("best", "last"):
        raise ConfigError(f"select must be best or last, got {plain['select']!r}")
    for key in sorted(SECTIONS):
        if key not in plain:
            raise ConfigError(f"the configuration has no {key}; choose one with {key}=NAME")
    for key in ("experiment", "scale", "method", "backbone", "data"):
        if not isinstance(plain[key], dict) or not isinstance(plain[key].get("name"), str):
            raise ConfigError(f"{key}.name must be a string: records and run directories are called by it")
    name_run(cfg)  # settings that are paths inside the run directory have their value from here on
    for path, node in _targets(plain_config(cfg)):
        _check_node(path, node)


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, dict]]:
    """All nodes with ``_target_``, outermost first."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from _targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _targets(value, f"{path}[{i}]")


def _check_node(path: str, node: dict) -> None:
    try:
        target = pydoc.locate(str(node["_target_"]))
    except pydoc.ErrorDuringImport as error:
        raise ConfigError(f"{path}._target_: cannot import {node['_target_']}: {error.value}") from error
    if not callable(target):
        raise ConfigError(f"{path}._target_: cannot import {node['_target_']}: there is no such class or function")
    allowed, hints = _signature(target)
    given = {
        key: value for key, value in node.items() if key not in ("_target_", "_partial_", "_recursive_", "_convert_")
    }
    for key, value in given.items():
        if key not in allowed:
            raise ConfigError(f"unknown key {path}.{key}{_hint(key, allowed)}")
        if key in hints and not _has_target(value):
            _check_type(f"{path}.{key}", value, hints[key])
    if not node.get("_partial_"):
        for key, parameter in allowed.items():
            if parameter.default is inspect.Parameter.empty and key not in given:
                raise ConfigError(f"{path}.{key} is missing; {node['_target_']} needs it")


def _signature(target: Callable) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Arguments and type hints of a callable; ``**settings`` of a class stand for its base class's arguments."""
    allowed: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    owners = [c for c in inspect.getmro(target) if "__init__" in vars(c)] if inspect.isclass(target) else [target]
    for owner in owners:
        function = owner.__init__ if inspect.isclass(owner) else owner
        function = inspect.unwrap(function)
        parameters = inspect.signature(function).parameters.values()
        try:
            own_hints = typing.get_type_hints(function)
        except (NameError, TypeError):  # hints that are only importable for type checkers
            own_hints = {}
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and parameter.name != "self":
                allowed.setdefault(parameter.name, parameter)
                if parameter.name in own_hints:
                    hints.setdefault(parameter.name, own_hints[parameter.name])
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return allowed, hints


def _has_target(value: Any) -> bool:
    return any(True for _ in _targets(value))


def _check_type(path: str, value: Any, hint: Any) -> None:
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a class with a configuration of its own
        adapter = TypeAdapter(hint)
    try:
        # In JSON's terms a list may be given for a tuple, but not a string for a number.
        adapter.validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError) as error:
        expected = str(hint).replace("typing.", "") if not isinstance(hint, type) else hint.__name__
        raise ConfigError(f"{path} must be {expected}, got {value!r}") from error


def _hint(key: str, known: Any) -> str:
    close = difflib.get_close_matches(key, [str(k) for k in known], n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(map(str, known)))}"


def build(node: DictConfig, **arguments: Any) -> Any:
    """Builds what a node's ``_target_`` names, with Hydra.

    Raises:
        UqbenchError: as the constructor raised it, without Hydra's wrapping.
        ConfigError: if the constructor refused its arguments in another way.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(node, **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None:
            if isinstance(cause, UqbenchError):
                raise cause from error
            cause = cause.__cause__
        raise ConfigError(" ".join(str(error).split())) from error


def name_run(cfg: DictConfig) -> None:
    """Fills in ``run_dir``, ``run_id`` and ``group``: functions of the configuration, and of nothing else."""
    cfg.run_id = config_hash(cfg)
    what = "_".join(str(cfg[key].name) for key in ("method", "backbone", "data"))
    cfg.group = f"{cfg.experiment.name}_{cfg.scale.name}_{what}_{config_hash(cfg, without_seed=True)[:8]}"
    folder = Path(cfg.output_dir) / cfg.experiment.name / cfg.scale.name / what
    cfg.run_dir = str(folder / f"seed{cfg.seed}_{cfg.run_id[:8]}")


def config_hash(cfg: DictConfig, without_seed: bool = False) -> str:
    """A hash of everything that can change a run's figures; of all but the seed for its group."""
    cfg = copy.deepcopy(cfg)
    for key in DERIVED:  # other settings may be paths inside the run directory
        cfg[key] = None
    plain = OmegaConf.to_container(cfg, resolve=True)
    for path in (*NOT_PART_OF_THE_RUN, *(["seed"] if without_seed else [])):
        *parents, leaf = path.split(".")
        node: Any = plain
        for parent in parents:
            node = node.get(parent, {})
        node.pop(leaf, None)
    assert isinstance(plain, dict)
    if without_seed and plain["method"].get("members_from"):
        # Finished runs that an ensemble is put together from differ in their seeds; they share their folder.
        plain["method"]["members_from"] = sorted({str(Path(run).parent) for run in plain["method"]["members_from"]})
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def plain_config(cfg: DictConfig | ListConfig) -> dict[str, Any]:
    """The resolved configuration as plain dicts and lists."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]
