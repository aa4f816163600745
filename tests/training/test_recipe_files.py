"""The recipes that come with the program: they load, and their headers name real commands."""

from __future__ import annotations

import re

import pytest

from mobilellm_mlx.training.recipes import Recipe, list_recipes

RECIPES = {one.name: one for one in list_recipes()}


def test_there_are_four() -> None:
    assert set(RECIPES) == {"base-to-chat", "chat", "full-125m", "tools"}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda one: one.name)
def test_a_recipe_is_a_configuration_and_says_what_for(recipe: Recipe) -> None:
    assert recipe.config.method == recipe.method
    assert 10 < len(recipe.description) <= 60


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda one: one.name)
def test_its_header_has_the_command_that_uses_it(recipe: Recipe) -> None:
    header = recipe.path.read_text(encoding="utf-8").split("\n\n", 1)[0]
    assert all(line.startswith("#") for line in header.splitlines())
    used = re.findall(r"mobilellm train (lora|dora|full) .*--recipe (\S+)", header)
    assert used == [(recipe.method, recipe.name)]


def test_the_base_model_gets_a_template() -> None:
    assert RECIPES["base-to-chat"].config.template == "chatml"
