"""``mobilellm kernels``: what computes packed weights on this CPU, and building it."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click

from mobilellm_mlx.cli.shared import debug_option
from mobilellm_mlx.plain import printable


@click.command()
@click.option(
    "--build", "builds", is_flag=True, help="Compile them for this machine (GCC, a minute)."
)
@click.option("--remove", "removes", is_flag=True, help="Delete what was built.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@debug_option
def kernels(builds: bool, removes: bool, as_json: bool) -> int:
    """Show what computes 4- and 8-bit weights on this CPU, or build it.

    MLX's own product of packed weights is slow on CPUs. Compiled kernels make a model that is kept
    in 4 bits read and write several times faster, in a quarter of the memory. Where none are built
    the weights are unpacked to float32 instead. A GPU needs none of this.

    The best way that the processor knows is taken. MOBILELLM_KERNELS names another one (vnni,
    avx512, avx2, plain) or none, MOBILELLM_THREADS how many threads there are, CXX the compiler.
    """
    from mobilellm_mlx.kernels import kernels as running
    from mobilellm_mlx.kernels.place import find, remove

    if builds and removes:
        raise click.UsageError("--build and --remove exclude each other")
    if removes:
        click.echo("removed" if remove() else "there were none", err=True)
    if builds:
        from mobilellm_mlx.kernels.build import build, require_tools

        require_tools()
        click.echo("building (about a minute) ...", err=True)
        started = time.perf_counter()
        build()
        click.echo(f"built in {time.perf_counter() - started:.0f} s", err=True)
    if sys.platform == "darwin":
        return _show({"runs": False, "reason": "Metal computes", "path": None}, as_json)
    found, path = running(), find()
    said = {"runs": found.module is not None, "reason": found.reason, "path": path and str(path)}
    return _show(said, as_json)


def _show(said: dict[str, Any], as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps(said))
        return 0
    reason = printable(said["reason"])
    if said["runs"]:
        click.echo(f"packed weights: our kernels ({reason})")
    else:
        click.echo(f"packed weights: no kernels ({reason})")
    if said["path"]:
        click.echo(f"built: {printable(said['path'])}")
    elif said["reason"] == "not built":
        click.echo("build them: mobilellm kernels --build")
    return 0
