"""Recipes: found by name or path, checked before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobilellm_mlx.errors import StorageError, TrainingError
from mobilellm_mlx.training import recipes
from mobilellm_mlx.training.recipes import list_recipes, load_recipe


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of recipes in the place of the program's own."""
    directory = tmp_path / "recipes"
    directory.mkdir()
    (directory / "style.toml").write_text(
        '# mobilellm train lora DATA --recipe style\ndescription = "Short\\n answers"\n'
        'method = "dora"\nrank = 16\nmodules = ["q_proj", "v_proj"]\nlearning_rate = 1e-3\n'
    )
    monkeypatch.setattr(recipes, "recipes_dir", lambda: directory)
    return directory


def test_a_recipe_names_some_settings_and_the_others_are_the_defaults(shelf: Path) -> None:
    recipe = load_recipe("style")
    assert recipe.description == "Short answers"
    assert (recipe.method, recipe.values["rank"]) == ("dora", 16)
    assert "batch_size" not in recipe.values
    config = recipe.config
    assert (config.method, config.modules, config.batch_size) == ("dora", ("q_proj", "v_proj"), 8)
    assert list_recipes() == [recipe]


def test_a_recipe_may_be_a_file_anywhere(shelf: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("rank = 2\n")
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.method, recipe.config.rank) == ("mine", None, 2)


def test_a_name_that_is_nearly_right_is_suggested(shelf: Path) -> None:
    with pytest.raises(TrainingError, match="no recipe `styel`") as caught:
        load_recipe("styel")
    assert caught.value.hint == "did you mean `style`?"
    with pytest.raises(TrainingError, match="no recipe") as caught:
        load_recipe("q\0" * 500)
    assert "train recipes" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"rank = ", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"rank = 0", "`rank` is 0"),
        (b"rnak = 8", "no setting `rnak`"),
        (b"rank = '8'", "a whole number"),
        (b"rank = 2020-01-01", "a whole number"),
        (b"modules = [1]", "a list of texts"),
        (b"learning_rate = nan", "a number"),
        (b"description = 5", "not a text"),
    ],
)
def test_a_recipe_that_is_not_sound_is_refused_with_its_file(
    shelf: Path, text: bytes, said: str
) -> None:
    (shelf / "odd.toml").write_bytes(text)
    with pytest.raises(TrainingError) as caught:
        load_recipe("odd")
    assert said in caught.value.message and "odd.toml" in caught.value.message


def test_a_file_that_is_no_recipe_is_not_read_whole(shelf: Path) -> None:
    (shelf / "odd.toml").write_bytes(b"#" * 200_000)
    with pytest.raises(StorageError, match="larger than"):
        load_recipe("odd")


def test_every_recipe_of_the_program_is_sound_and_says_how_it_is_used() -> None:
    for recipe in list_recipes():
        assert recipe.config and recipe.method and recipe.description, recipe.name
        head = recipe.path.read_text().partition("\n\n")[0]
        assert f"mobilellm train {recipe.method}" in head, recipe.name
        assert f"--recipe {recipe.path.stem}" in head, recipe.name
