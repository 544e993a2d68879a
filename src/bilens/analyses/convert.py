"""The command that turns a language model with gated MLPs into one whose MLPs are bilinear."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch import distributed as dist

from bilens import plots, store, text
from bilens._internal import device as devices
from bilens._internal import ranks
from bilens._internal.checks import whole
from bilens._internal.checkpoint import discard
from bilens.analyses import side_by_side
from bilens.analyses.layers import layout_of
from bilens.errors import BilensError
from bilens.faithfulness import TextScore
from bilens.files import write_text
from bilens.models import conversion, gated
from bilens.models.conversion import ConvertedLayer, ConvertedMLP, ConvertedModule, Sequence as LayerSequence, Stack
from bilens.models.conversion.measure import measured
from bilens.models.gated import original
from bilens.progress import Step, Steps, bar, duration
from bilens.store import Folder
