"""How a GPU computes is said, not left to torch's defaults."""

from __future__ import annotations

from typing import Any

import torch

from vicreg_workers.selfsup.model.precision import set_gpu_arithmetic


def test_convolutions_round_to_tf32_and_products_do_not() -> None:
    cudnn: Any = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    before = cudnn.conv.fp32_precision, matmul.fp32_precision, cudnn.benchmark
    try:
        cudnn.conv.fp32_precision, matmul.fp32_precision = "ieee", "tf32"
        cudnn.benchmark = False
        set_gpu_arithmetic()
        assert cudnn.conv.fp32_precision == "tf32"
        assert matmul.fp32_precision == "ieee"
        assert cudnn.benchmark
    finally:
        cudnn.conv.fp32_precision, matmul.fp32_precision, cudnn.benchmark = before
