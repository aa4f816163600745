"""The Hugging Face Hub as a source: pinned to one commit, every file verified, resumable.

What the official client is for here: finding the person's token, proxies and certificates. The
downloading itself is ours, because in version 2.4 that client starts an interrupted file from zero
and compares no hash. Files lie in the cache that it and other tools share, in its layout, so
nothing is fetched twice. Only plain HTTP is spoken, which the hub offers for every file; the
client's other protocol (Xet) is not used.
"""

from mobilellm_mlx.huggingface.fetch import fetch_repo, fetch_small, inspect_repo, read_header
from mobilellm_mlx.huggingface.names import is_repo_id, split_file, split_revision
from mobilellm_mlx.huggingface.repo import RemoteFile, RemoteRepo, readme_licence, wanted_files

__all__ = [
    "RemoteFile",
    "RemoteRepo",
    "fetch_repo",
    "fetch_small",
    "inspect_repo",
    "is_repo_id",
    "read_header",
    "readme_licence",
    "split_file",
    "split_revision",
    "wanted_files",
]
