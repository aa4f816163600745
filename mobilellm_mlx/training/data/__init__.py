"""From files of examples to token ids, and which of them are learned."""

from __future__ import annotations

from mobilellm_mlx.training.data.example import Example as Example
from mobilellm_mlx.training.data.example import render_example as render_example
from mobilellm_mlx.training.data.loading import Data as Data
from mobilellm_mlx.training.data.loading import SamplePrompt as SamplePrompt
from mobilellm_mlx.training.data.loading import load_data as load_data
from mobilellm_mlx.training.data.reading import data_sha256 as data_sha256
from mobilellm_mlx.training.data.report import DataReport as DataReport
from mobilellm_mlx.training.data.templates import Manner as Manner
from mobilellm_mlx.training.data.templates import choose_template as choose_template
