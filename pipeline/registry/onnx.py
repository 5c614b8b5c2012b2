"""A segmenter as ONNX; for programs of others, so it is not among the code of a job."""

from pathlib import Path

import torch
from torch import Tensor

from datasets.errors import InputError
from models.segmenter import Segmenter
from pipeline.registry.export import exported


def write_onnx(segmenter: Segmenter, example_BCN: Tensor, path: Path) -> Path:
    """Write the program as ONNX, with input ``raw`` and output ``probabilities``; needs the extra ``onnx``.

    A force in bfloat16, or in float16 without zeros at the boundary, is an `InputError`: ONNX Runtime lacks operations.
    """
    network = segmenter.config.network
    if network.force_dtype == "bfloat16":
        raise InputError(
            "network.force_dtype is bfloat16, in which ONNX Runtime has no convolutions on the CPU; "
            "write a torch program instead, or train with float16 or float32"
        )
    if network.force_dtype == "float16" and network.boundary != "zeros":
        raise InputError(
            f"network.force_dtype is float16 and network.boundary {network.boundary}, which ONNX Runtime cannot add; "
            "write a torch program instead, or train with float32"
        )
    program = torch.onnx.export(
        exported(segmenter, example_BCN), (), input_names=["raw"], output_names=["probabilities"], verbose=False
    )
    assert program is not None
    program.save(path)
    return path
