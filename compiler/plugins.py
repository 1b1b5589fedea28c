"""Passes and ops that other packages bring, through entry points. In a plugin's pyproject.toml::

    [project.entry-points."planish.passes"]
    quick-gelu = "my_package.rules:QuickGelu"

    [project.entry-points."planish.ops"]
    my-ops = "my_package.ops"

The first names a class; the second a module that calls ``planish.register_op`` when it is imported (or an op registered in
one). Passes are looked up when a name is asked for, ops when a model uses one that nobody has registered yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import PlanishError, UsageError

#: The entry-point group of passes; backends have one of their own, see ``target.ENTRY_POINTS``.
GROUP = "planish.passes"
#: The entry-point group of ops.
OPS_GROUP = "planish.ops"


def registered_passes(
    built_in: Iterable[type] | Mapping[str, Any] = (), points: Iterable[EntryPoint] | None = None
) -> dict[str, type]:
    """Every pass that a pipeline's text can name: its name and its class.

    Args:
        built_in: the passes of planish, handed in by who knows them (``passes.presets``).
        points: the entry points; None looks up the installed ones.

    Raises:
        UsageError: two passes have the same name; both are told.
        PlanishError: a plugin cannot be imported or brings no pass; names the package.
    """
    found: dict[str, type] = {}
    origin: dict[str, str] = {}

    def add(name: str, cls: type, where: str) -> None:
        if name in found:
            raise UsageError(
                f"two passes are called {name!r}: {origin[name]} and {where}", "uninstall one of the two, or rename it"
            )
        found[name], origin[name] = cls, where

    for cls in built_in.values() if isinstance(built_in, Mapping) else built_in:
        add(pass_name(cls), cls, "the one of planish")
    for point in sorted(entry_points(group=GROUP) if points is None else points, key=lambda p: (p.name, p.value)):
        where = f"{point.value} of {point.dist.name}" if point.dist is not None else point.value
        cls = _load(point, where)
        if pass_name(cls) != point.name:
            raise PlanishError(f"the plugin {where} registers {point.name!r} but its pass is called {pass_name(cls)!r}")
        add(point.name, cls, where)
    return found


def pass_name(cls: Any) -> str:
    """The name of a pass class.

    Raises:
        UsageError: it has none, so it is no pass.
    """
    name = getattr(cls, "name", None)
    if not isinstance(cls, type) or not isinstance(name, str) or not callable(getattr(cls, "run", None)):
        raise UsageError(
            f"{cls!r} is no pass class", "it needs name, version and run(graph, context), or is a RewriteRule"
        )
    return name


def _load(point: EntryPoint, where: str) -> type:
    try:
        cls = point.load()
    except Exception as error:
        raise PlanishError(
            f"the plugin {where} cannot be imported: {type(error).__name__}: {error}", "update or uninstall its package"
        ) from error
    try:
        pass_name(cls)
    except UsageError as error:
        raise PlanishError(f"the plugin {where} brings no pass: {error.message}", error.hint) from error
    return cls


_loaded: set[tuple[str, str]] = set()


def load_ops(points: Iterable[EntryPoint] | None = None) -> None:
    """Register the ops of the installed plugins; each plugin is imported once.

    Args:
        points: the entry points; None looks up the installed ones.

    Raises:
        UsageError: two packages register an op of the same name; both places are told.
        PlanishError: a plugin cannot be imported or registers no op; names the package.
    """
    from .custom_ops import CustomOp, registered

    for point in sorted(entry_points(group=OPS_GROUP) if points is None else points, key=lambda p: (p.name, p.value)):
        if (point.name, point.value) in _loaded:
            continue
        where = f"{point.value} of {point.dist.name}" if point.dist is not None else point.value
        try:
            found = point.load()
        except PlanishError:
            raise
        except Exception as error:
            raise PlanishError(
                f"the plugin {where} cannot be imported: {type(error).__name__}: {error}",
                "update or uninstall its package",
            ) from error
        package = getattr(found, "__name__", "").partition(".")[0]
        if not isinstance(found, CustomOp) and not any(o.module.partition(".")[0] == package for o in registered()):
            raise PlanishError(
                f"the plugin {where} registers no op", "its entry point names a module that calls planish.register_op"
            )
        _loaded.add((point.name, point.value))
