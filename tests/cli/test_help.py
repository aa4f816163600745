"""Help: it is there, it is whole, it is quick; and what each verb loads."""

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from mobilellm_mlx.cli import VERBS, cli

HEAVY = ("mlx", "mlx_lm", "textual", "rich", "jinja2", "tokenizers", "sentencepiece", "numpy")
ALL = [
    (),
    *((verb,) for verb in VERBS),
    *(("models", verb) for verb in ("list", "pull", "show", "rm")),
    *(("tools", verb) for verb in ("list", "show", "call")),
    *(
        ("eval", verb)
        for verb in (
            "choice",
            "ppl",
            "quant",
            "chat",
            "calls",
            "harness",
            "list",
            "show",
            "rm",
            "compare",
            "training",
        )
    ),
    *(("adapters", verb) for verb in ("list", "show", "rename", "rm", "export")),
    *(("train", verb) for verb in ("lora", "dora", "full", "resume", "data", "check")),
    *(("train", verb) for verb in ("pause", "stop", "list", "show", "rm", "recipes")),
    *(("train", "data", verb) for verb in ("tools", "chat")),
    ("demo", "tools"),
    *(
        ("history", verb)
        for verb in (
            "list",
            "show",
            "search",
            "export",
            "import",
            "path",
            "backup",
            "rm",
            "reproduce",
        )
    ),
]


def find(path: tuple[str, ...]) -> click.Command:
    """The command of a path of verbs."""
    found: click.Command = cli
    for name in path:
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), name)
    return found


def below(command: click.Command) -> Iterator[tuple[str, ...]]:
    """The paths from a command to itself and to all that a group of them has."""
    yield ()
    if not isinstance(command, click.Group):
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from ((name, *path) for path in below(inner))


def modules_after(*args: str, stdin: bytes = b"", tail: str = "") -> set[str]:
    """Top-level modules that a run of the command line has loaded when it leaves."""
    code = (
        "import sys\nfrom mobilellm_mlx.cli import main\n"
        f"try:\n    main({list(args)!r})\nexcept SystemExit as end:\n    code = end.code\n"
        "print('\\nMODULES', code, *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=stdin, capture_output=True, check=True, timeout=60
    )
    last = done.stdout.decode().splitlines()[-1].split()
    assert last[:2] == ["MODULES", "0"], (last, done.stderr.decode())
    return set(last[2:])


def test_the_list_of_verbs_under_test_is_complete() -> None:
    assert set(ALL) == {(), *((verb, *rest) for verb in VERBS for rest in below(find((verb,))))}


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_names_every_option(run, path) -> None:
    result = run(*path, "--help")
    assert result.code == 0 and result.err == ""
    for parameter in find(path).params:
        if isinstance(parameter, click.Option):
            assert any(name in result.out for name in parameter.opts), parameter.opts
            assert parameter.help, parameter.opts


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_verb_knows_the_short_form_of_help(run, path) -> None:
    assert run(*path, "-h").out == run(*path, "--help").out


def test_the_help_of_the_group_lists_every_verb_with_its_line(run) -> None:
    words = " ".join(run("--help").out.split())
    for verb, (_, line) in VERBS.items():
        assert f"{verb} {line}" in words


def test_the_version_is_the_package_s(run) -> None:
    from mobilellm_mlx import __version__

    assert run("--version").out == f"mobilellm {__version__}\n"


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_loads_nothing_heavy(path) -> None:
    assert not modules_after(*path, "--help") & {*HEAVY, "huggingface_hub", "tui", "convert"}


def test_generate_loads_mlx_but_no_other_program(tiny_dir) -> None:
    loaded = modules_after("generate", "-m", str(tiny_dir), "-p", "hi", "--max-tokens", "2")
    assert "mlx" in loaded  # else this test looks at the wrong thing
    others = {"mlx_lm", "transformers", "torch", "huggingface_hub", "textual", "tui", "convert"}
    assert not loaded & {*others, "sentencepiece", "rich", "numpy", "pip"}


def test_line_mode_chat_loads_mlx_but_no_other_program(tiny_dir) -> None:
    loaded = modules_after("chat", str(tiny_dir), "--max-tokens", "2", stdin=b"hi\n")
    assert "mlx" in loaded
    others = {"mlx_lm", "transformers", "torch", "huggingface_hub", "textual", "tui", "convert"}
    assert not loaded & {*others, "sentencepiece", "rich", "numpy", "pip"}


@pytest.mark.parametrize(
    ("typed", "meant"), [(["chta"], "chat"), (["genrate"], "generate"), (["models", "lst"], "list")]
)
def test_an_unknown_verb_suggests_the_near_one_once(run, typed, meant) -> None:
    result = run(*typed)
    assert result.code == 2 and result.out == ""
    assert result.err.count("Did you mean") == 1 and f"'{meant}'" in result.err


def test_an_unknown_verb_far_from_all_suggests_nothing(run) -> None:
    result = run("xyzzy")
    assert result.code == 2 and "No such command 'xyzzy'" in result.err
    assert "Did you mean" not in result.err


@pytest.mark.parametrize(
    "args",
    [
        ["generate"],
        ["generate", "-p", "x", "--temp", "warm"],
        ["generate", "-p", "x", "--compute", "quantum"],
        ["generate", "-p", "x", "--nonsense"],
        ["generate", "-p", "x", "--raw", "--system", "y"],
        ["chat", "one", "two"],
        ["models", "pull"],
        ["models", "rm", "one", "two"],
        ["doctor", "now"],
    ],
    ids=" ".join,
)
def test_wrong_usage_leaves_with_2_and_says_why_on_stderr_only(run, args) -> None:
    result = run(*args)
    assert result.code == 2 and result.out == ""
    assert "Usage: mobilellm" in result.err and "Error: " in result.err
    assert "Traceback" not in result.err
