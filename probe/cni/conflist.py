"""Adds the plugin to the text of a CNI configuration, and takes it out again: pure, no file is touched.

A conflist has a list of plugins, which the runtime runs in their order. Ours is the last, so that the interface has its
addresses. A configuration of a single plugin (``.conf``) becomes a conflist with that plugin and ours.
"""

from __future__ import annotations

import json
from typing import Any, Final

TYPE: Final = "weir-cni"
"""The plugin's type in the configuration, which is the name of its program."""


class ConfigurationError(ValueError):
    """The text is not a CNI configuration to which a plugin can be added; the message says why."""


def with_plugin(text: str, entry: dict[str, Any]) -> str | None:
    """Return the configuration with ``entry``, or None if it has exactly that already. Raises ConfigurationError.

    Where other plugins were added behind ours, ours stays where it is.
    """
    config = _read(text)
    if "plugins" not in config:
        config = _as_list(config)
    plugins: list[Any] = config["plugins"]
    ours = [at for at, plugin in enumerate(plugins) if _is_ours(plugin)]
    if len(ours) == 1 and plugins[ours[0]] == entry:
        return None
    at = ours[0] if ours else len(plugins)
    others = [plugin for plugin in plugins if not _is_ours(plugin)]
    if not others:
        raise ConfigurationError("it has no plugin that makes interfaces")
    config["plugins"] = [*others[:at], entry, *others[at:]]
    return _written(config)


def without_plugin(text: str) -> str | None:
    """Return the configuration without our plugin, or None if it does not have it. Raises ConfigurationError."""
    config = _read(text)
    plugins = config.get("plugins")
    if not plugins or not any(_is_ours(plugin) for plugin in plugins):
        return None
    config["plugins"] = [plugin for plugin in plugins if not _is_ours(plugin)]
    return _written(config)


def _read(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"it is not JSON: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("name"), str):
        raise ConfigurationError("it is not a JSON object with a name")
    plugins = config.get("plugins", [config])
    if not isinstance(plugins, list) or not all(
        isinstance(p, dict) and isinstance(p.get("type"), str) for p in plugins
    ):
        raise ConfigurationError("its plugins are not a list of objects with a type")
    return config


def _as_list(config: dict[str, Any]) -> dict[str, Any]:
    """Return the conflist that means the same as a configuration of one plugin."""
    plugin = {key: value for key, value in config.items() if key not in ("name", "cniVersion")}
    version = {"cniVersion": config["cniVersion"]} if "cniVersion" in config else {}
    return {**version, "name": config["name"], "plugins": [plugin]}


def _is_ours(plugin: dict[str, Any]) -> bool:
    return bool(plugin["type"] == TYPE)


def _written(config: dict[str, Any]) -> str:
    text = json.dumps(config, indent=2) + "\n"
    if json.loads(text) != config:
        raise ConfigurationError("it cannot be written as it was")
    return text
