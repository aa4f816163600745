"""Keys and tokens of servers stay in the settings file, whatever is wrong with it."""

from __future__ import annotations

import pytest

from mobilellm_mlx.settings import load_settings, settings_path

KEY = "sk-1234567890"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (f'env = "K={KEY}"', "`mcp.a.env` is no such, expected texts by name"),
        (f'env = {{K = "{KEY}\\u001b"}}', "`mcp.a.env` is no such, expected texts by name"),
        (f'env = {{"{KEY}" = 1}}', "`mcp.a.env` is no such, expected texts by name"),
        (f'args = "--key {KEY}"', "`mcp.a.args` is no such, expected a list of texts"),
        (f'args = ["--key", "{KEY}", 1]', "`mcp.a.args` is no such, expected a list of texts"),
    ],
)
def test_a_mistyped_entry_is_told_of_without_what_it_holds(entry: str, said: str) -> None:
    settings_path().parent.mkdir(parents=True, exist_ok=True)
    settings_path().write_text(f'[mcp.a]\ncommand = "x"\n{entry}\n[sampling]\ntop_k = 7\n')
    settings, (problem,) = load_settings()
    assert said in problem and KEY not in problem
    assert "a" not in settings.mcp and settings.sampling == {"top_k": 7}
