"""Every setting, read from its own declaration: defaults, bounds, choices, types, messages."""

import dataclasses
import json
import math
import re

import pytest

from laser_core.settings import (
    REMOVED,
    AnswerSettings,
    ContrastSettings,
    CounterfactualSettings,
    CropSettings,
    DecodeSettings,
    FindSettings,
    LaserSettings,
    LayerSettings,
    LoadSettings,
    PresetSettings,
    PromptSettings,
    Settings,
    removal,
)

GROUPS = (
    PresetSettings,
    LoadSettings,
    PromptSettings,
    ContrastSettings,
    LayerSettings,
    CropSettings,
    CounterfactualSettings,
    AnswerSettings,
    DecodeSettings,
    FindSettings,
)
FIELDS = [(group, spec) for group in GROUPS for spec in dataclasses.fields(group)]
NUMBERS = [pair for pair in FIELDS if type(pair[1].default) in (int, float)]
FLOATS = [pair for pair in NUMBERS if type(pair[1].default) is float]
CHOICES = [pair for pair in FIELDS if pair[1].metadata["choices"]]


def of(pairs):
    names = [f"{group.__name__}.{spec.name}" for group, spec in pairs]
    return pytest.mark.parametrize(("group", "spec"), pairs, ids=names)


def beyond(bound, direction):
    return bound + direction if isinstance(bound, int) else bound + direction * 1e-6


def test_every_group_is_tested():
    assert set(Settings.__subclasses__()) == {*GROUPS, LaserSettings}


@pytest.mark.parametrize("group", [*GROUPS, LaserSettings])
def test_every_default_is_valid(group):
    group()


@of(FIELDS)
def test_every_setting_is_explained(group, spec):
    assert spec.metadata["help"].endswith(".")


@of(NUMBERS)
def test_every_number_has_a_range_of_its_own_type(group, spec):
    kind = type(spec.default)
    assert type(spec.metadata["low"]) is type(spec.metadata["high"]) is kind
    assert spec.metadata["step"] > 0


@of(NUMBERS)
@pytest.mark.parametrize("end", ["low", "high"])
def test_both_bounds_are_allowed(group, spec, end):
    bound = spec.metadata[end]
    chosen = group(**{spec.name: bound})
    assert getattr(chosen, spec.name) == bound


@of(NUMBERS)
@pytest.mark.parametrize(("end", "direction"), [("low", -1), ("high", 1)])
def test_a_value_beyond_a_bound_is_refused_with_field_value_and_range(group, spec, end, direction):
    value = beyond(spec.metadata[end], direction)
    with pytest.raises(ValueError) as error:
        group(**{spec.name: value})
    low, high = spec.metadata["low"], spec.metadata["high"]
    assert str(error.value) == f"choose a value from {low} to {high}: {spec.name} is {value}"


@of(FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, -(10**400)])
def test_floats_that_are_no_number_in_the_range_are_refused(group, spec, value):
    with pytest.raises(ValueError, match=f"^choose a value from .*: {spec.name} is"):
        group(**{spec.name: value})


@of([pair for pair in FLOATS if math.floor(pair[1].metadata["high"]) >= pair[1].metadata["low"]])
def test_a_whole_number_becomes_a_float(group, spec):
    chosen = group(**{spec.name: min(1, math.floor(spec.metadata["high"]))})
    assert type(getattr(chosen, spec.name)) is float


@of(CHOICES)
def test_every_choice_is_allowed(group, spec):
    for choice in spec.metadata["choices"]:
        assert getattr(group(**{spec.name: choice}), spec.name) == choice


@of(CHOICES)
def test_another_choice_is_refused_with_field_value_and_choices(group, spec):
    with pytest.raises(ValueError) as error:
        group(**{spec.name: "no such choice"})
    choices = ", ".join(spec.metadata["choices"])
    assert str(error.value) == f"choose one of {choices}: {spec.name} is 'no such choice'"


@pytest.mark.parametrize("removed", [name for name in REMOVED if " " in name])
def test_a_removed_choice_is_refused_with_the_one_to_use(removed):
    name, _, choice = removed.partition(" ")
    [(group, spec)] = [pair for pair in FIELDS if pair[1].name == name]
    if spec.metadata["choices"]:
        assert choice not in spec.metadata["choices"]
        assert REMOVED[removed] in spec.metadata["choices"]
    else:  # of a text
        assert choice != spec.default
    with pytest.raises(ValueError) as error:
        group(**{name: choice})
    assert str(error.value) == f"removed, use {REMOVED[removed]}: {name} is {choice!r}"


@pytest.mark.parametrize("removed", [name for name in REMOVED if " " not in name])
def test_a_removed_setting_names_settings_that_there_are(removed):
    names = {spec.name for _, spec in FIELDS}
    assert removed not in names
    told = removal(removed, str.upper)
    assert told.startswith("removed: use ") and told.endswith(f" instead of {removed.upper()}")
    assert set(re.findall(r"\{(\w+)\}", REMOVED[removed])) <= names


def test_there_are_at_most_43_settings_and_the_preset():
    """A further one needs a better reason than that it is possible."""
    assert len(FIELDS) == len({spec.name for _, spec in FIELDS}) <= 44


@of(FIELDS)
@pytest.mark.parametrize("value", [None, True, b"auto", [1], {}])
def test_another_type_is_refused_with_field_value_and_type(group, spec, value):
    with pytest.raises(ValueError) as error:
        group(**{spec.name: value})
    kind = type(spec.default).__name__
    assert str(error.value) == f"give it a value of type {kind}: {spec.name} is {value!r}"


@of([pair for pair in NUMBERS if type(pair[1].default) is int])
def test_an_integer_setting_refuses_floats(group, spec):
    with pytest.raises(ValueError, match=rf"give it a value of type int: {spec.name} is 8\.0"):
        group(**{spec.name: 8.0})


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        (
            LayerSettings,
            {"first_depth": 0.6, "last_depth": 0.5},
            "choose at most last_depth, which is 0.5: first_depth is 0.6",
        ),
        (
            LayerSettings,
            {"last_depth": -0.5},
            "choose a value from 0 to 1, or -1 for the family's: last_depth is -0.5",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(group, values, message):
    with pytest.raises(ValueError) as error:
        group(**values)
    assert str(error.value) == message


def test_settings_that_limit_each_other_may_be_equal():
    LayerSettings(first_depth=0.5, last_depth=0.5)


def test_a_group_in_another_groups_place_is_refused():
    with pytest.raises(ValueError, match=r"of type PromptSettings: prompt is CropSettings"):
        LaserSettings(prompt=CropSettings())


def test_a_settings_object_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CropSettings().scale = 0.3


def test_settings_survive_the_way_through_json():
    chosen = LaserSettings(crop=CropSettings(scale=0.3), decode=DecodeSettings(alpha=2.0))
    plain = json.loads(json.dumps(chosen.to_dict()))
    kinds = {spec.name: type(spec.default) for spec in dataclasses.fields(LaserSettings)}
    assert (
        LaserSettings(**{name: kinds[name](**values) for name, values in plain.items()}) == chosen
    )
