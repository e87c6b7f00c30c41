"""Settings as command-line flags or named texts, declared by the fields' own metadata.

A flag is the field's name in kebab-case; no two groups share a name. Knows argparse and the
settings, nothing of what they do.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from .settings import (
    ANSWER_GROUPS,
    GROUPS,
    FindSettings,
    LaserSettings,
    LoadSettings,
    preset_values,
)


@dataclass(frozen=True)
class Flag:
    """group: name of the settings group. spec: the field. name: with its dashes."""

    group: str
    spec: dataclasses.Field
    name: str

    @property
    def kind(self) -> type:
        return type(self.spec.default)

    @property
    def destination(self) -> str:
        return f"{self.group}.{self.spec.name}"

    @property
    def values(self) -> str:
        """What may be given, for people."""
        meta = self.spec.metadata
        if meta["choices"]:
            return " | ".join(meta["choices"])
        if meta["low"] is not None:
            high = "2^64 - 1" if meta["high"] == 2**64 - 1 else f"{meta['high']:g}"
            return f"{meta['low']:g} to {high}"
        return "text"

    @property
    def default(self) -> str:
        """The default as it is typed, for people."""
        return "empty" if self.spec.default == "" else str(self.spec.default)


def flag_name(setting: str) -> str:
    """A setting's name as a flag."""
    return "--" + setting.replace("_", "-")


def flags(groups: Iterable[str] = tuple(GROUPS)) -> list[Flag]:
    """The flags of these settings groups, in the order of their declaration."""
    return [
        Flag(group, spec, flag_name(spec.name))
        for group in groups
        for spec in fields(GROUPS[group])
    ]


def title(group: str) -> str:
    """What a settings group is about, in one line for people."""
    return (GROUPS[group].__doc__ or "").split("\n")[0].rstrip(".")


def add_flags(parser: argparse.ArgumentParser, groups: Iterable[str]) -> None:
    """Declare the flags of these settings groups, one help section each."""
    for group in groups:
        section = parser.add_argument_group(title(group))
        for flag in flags([group]):
            text = f"{flag.spec.metadata['help']} [{flag.values}; default: {flag.default}]"
            section.add_argument(
                flag.name,
                dest=flag.destination,
                default=argparse.SUPPRESS,
                metavar={int: "N", float: "X"}.get(flag.kind, "TEXT"),
                help=text.replace("%", "%%"),
            )


def read_flags(arguments: argparse.Namespace) -> tuple[LoadSettings, LaserSettings]:
    """The given settings; the preset decides the others. Raises ValueError, remedy first."""
    return _settings(flags(ANSWER_GROUPS), vars(arguments))


def read_find_flags(arguments: argparse.Namespace) -> FindSettings:
    """The given settings of Find. Raises ValueError, remedy first."""
    return _group("find", flags(["find"]), vars(arguments), {})


def read_named(texts: Mapping[str, str]) -> tuple[LoadSettings, LaserSettings]:
    """The settings from texts by field name, {"alpha": "0.5"}; the preset decides the others.

    Raises ValueError, remedy first and with the fields' own names.
    """
    named = [replace(flag, name=flag.spec.name) for flag in flags(ANSWER_GROUPS)]
    return _settings(named, {f.destination: texts[f.name] for f in named if f.name in texts})


def _settings(
    named: Sequence[Flag], given: Mapping[str, Any]
) -> tuple[LoadSettings, LaserSettings]:
    """The settings from texts by destination, over those of the preset among them.

    Errors speak of the flags as `named`.
    """
    preset = preset_values(_group("preset", named, given, {}).preset)
    groups = {name: _group(name, named, given, preset) for name in ANSWER_GROUPS[1:]}
    return groups.pop("load"), LaserSettings(**groups)


def _group(
    group: str, named: Sequence[Flag], given: Mapping[str, Any], preset: Mapping[str, Any]
) -> Any:
    """The settings of a group from texts by destination, over those of the preset."""
    own = [flag for flag in named if flag.group == group]
    values = {flag.spec.name: preset[flag.spec.name] for flag in own if flag.spec.name in preset}
    texts = [(flag, given[flag.destination]) for flag in own if flag.destination in given]
    values |= {flag.spec.name: _value(flag, text) for flag, text in texts}
    try:
        return GROUPS[group](**values)
    except ValueError as error:
        raise ValueError(_in_flags(str(error), own)) from error


def _value(flag: Flag, text: str) -> Any:
    """The text as the field's type; a choice may be typed without spaces and signs."""
    choices = flag.spec.metadata["choices"]
    if choices:
        alike = [choice for choice in choices if _letters(choice) == _letters(text)]
        return alike[0] if alike else text
    try:
        return flag.kind(text)
    except ValueError as error:
        number = "a whole number" if flag.kind is int else "a number"
        raise ValueError(f"give {flag.name} {number}, {flag.values}: it is {text!r}") from error


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _in_flags(message: str, own: Sequence[Flag]) -> str:
    """A settings' error, "remedy: field is value", with flags for fields."""
    for flag in own:
        name = flag.spec.name
        message = re.sub(rf": {name} is\b", f": {flag.name} is", message)
        if "_" in name:  # others are ordinary words
            message = re.sub(rf"(?<!-)\b{name}\b", flag.name, message)
    return message
