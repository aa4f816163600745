"""``python -m mobilellm_mlx`` is the same as the ``mobilellm`` command."""

from mobilellm_mlx.cli import main

main()
