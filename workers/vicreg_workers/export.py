"""Exports a published encoder to a file that works without this platform.

The suffix chooses the format: ``.safetensors`` and ``.pth`` hold the weights under torchvision's
names, ``.pt`` is TorchScript, ``.onnx`` is ONNX. The last two take batches of any size. The file is
read back, and its output on random images compared with the encoder's.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vicreg_workers.encoder import FOLDER, Published, load_published
from vicreg_workers.failures import JobFailure, UserFailure
from vicreg_workers.selfsup.model.backbones import backbone_state, build_backbone

TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest output: formats sum in different orders."""


def export_encoder(encoder: Published, file: Path) -> float:
    """Write ``encoder`` to ``file`` in the format of its suffix, and check the file.

    Returns:
        The largest difference of the outputs, relative to the largest output.

    Raises:
        UserFailure: an unknown suffix, a missing package, or outputs that differ.
    """
    formats = {
        ".safetensors": _safetensors,
        ".pth": _state_dict,
        ".pt": _torchscript,
        ".onnx": _onnx,
    }
    if file.suffix not in formats:
        raise UserFailure(f"{file}: the suffix must be one of {', '.join(formats)}")
    size = encoder.image_size
    read_back = formats[file.suffix](encoder, torch.zeros(2, 3, size, size), file)
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = encoder.backbone(images)
        difference = (read_back(images) - expected).abs().max() / expected.abs().max()
    if not difference < TOLERANCE:
        raise UserFailure(
            f"{file} does not compute what the encoder does: they differ by {difference:.2g}"
        )
    return float(difference)


def _safetensors(encoder: Published, example: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    save_file(backbone_state(encoder.backbone), file)
    return _rebuilt(encoder, load_file(file))


def _state_dict(encoder: Published, example: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    torch.save(backbone_state(encoder.backbone), file)
    return _rebuilt(encoder, torch.load(file, weights_only=True))


def _rebuilt(encoder: Published, weights: dict[str, Tensor]) -> nn.Module:
    backbone = build_backbone(encoder.spec, encoder.image_size)
    backbone.load_state_dict(weights)
    return backbone.eval()


def _torchscript(encoder: Published, example: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            encoder.backbone, example, check_trace=False
        )
        traced.save(str(file))
        loaded: Callable[[Tensor], Tensor] = torch.jit.load(  # type: ignore[no-untyped-call]
            str(file)
        )
    return loaded


def _onnx(encoder: Published, example: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter imports it)
    except ImportError as error:
        raise UserFailure(f"ONNX needs more packages: pip install '.[export]' ({error})") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder.backbone,
            (example,),
            str(file),
            input_names=["images"],
            output_names=["representations"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(file))

    def run(images: Tensor) -> Tensor:
        (representations,) = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(representations)

    return run


def main() -> None:
    """Export an encoder, as ``vicreg export`` does, and print one line."""
    parser = argparse.ArgumentParser(description="Export a published encoder to a file.")
    parser.add_argument("encoder", help="an MLflow run id, or models:/<name>/<version>")
    parser.add_argument(
        "file", type=Path, help="ends in .safetensors, .pth, .pt or .onnx: its format"
    )
    parser.add_argument("--mlflow", required=True, help="address of the MLflow server")
    arguments = parser.parse_args()
    address = arguments.encoder
    uri = address if address.startswith("models:/") else f"runs:/{address}/{FOLDER}"
    try:
        encoder = load_published(uri, arguments.mlflow)
        difference = export_encoder(encoder, arguments.file)
    except JobFailure as failure:
        sys.exit(" ".join(str(failure).split()))
    print(
        f"{arguments.file}: {encoder.spec.name} for images of {encoder.image_size} pixels; "
        f"outputs differ by at most {difference:.1g}"
    )


if __name__ == "__main__":
    main()
