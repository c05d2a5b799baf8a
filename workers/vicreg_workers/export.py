"""Exports a published encoder to a file or a folder that works without this platform.

The suffix of a file chooses its format: ``.safetensors`` and ``.pth`` hold the weights under
torchvision's names, ``.pt`` is TorchScript, ``.onnx`` is ONNX. The last two take batches of any
size. A folder is as timm and the Hugging Face Hub have them, with a model card. What was written is
read back, and its output on random images compared with the encoder's.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vicreg_platform.contract.model_facts import FolderFormat, ModelFacts
from vicreg_workers.encoder import Published, load_published
from vicreg_workers.failures import JobFailure, UserFailure
from vicreg_workers.model_card import write_card
from vicreg_workers.selfsup.model.backbones import backbone_state, build_backbone
from vicreg_workers.timm_folder import CONFIG, write_timm_folder
from vicreg_workers.weights import FOLDER

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
    return _compared(
        encoder, formats[file.suffix](encoder, torch.zeros(2, 3, size, size), file), file
    )


def export_folder(
    encoder: Published,
    folder: Path,
    facts: ModelFacts,
    form: FolderFormat,
    address: str | None = None,
) -> float:
    """Write ``encoder`` and its model card to a folder, and check what was written.

    Args:
        encoder: what to write.
        folder: made if it does not exist; must be empty.
        facts: for the card.
        form: whose folder it is.
        address: by which timm will load it, for the card. Default: the name of the folder.

    Returns:
        The largest difference of the outputs, relative to the largest output.

    Raises:
        UserFailure: the folder is not empty, timm has no such network, or outputs differ.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserFailure(f"{folder} is not empty: name a new folder")
    except OSError as error:
        raise UserFailure(f"{folder} cannot be a folder: {error.strerror}") from None
    difference = _compared(encoder, write_timm_folder(encoder, folder), folder)
    if form is FolderFormat.HUGGINGFACE:
        # As the Hub's own repositories: git keeps weights with LFS.
        (folder / ".gitattributes").write_text(
            "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
        )
    config = json.loads((folder / CONFIG).read_text())
    write_card(facts, config, folder, address or f"local-dir:{folder.resolve().name}")
    return difference


def _compared(encoder: Published, read_back: Callable[[Tensor], Tensor], path: Path) -> float:
    size = encoder.image_size
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = encoder.backbone(images)
        difference = (read_back(images) - expected).abs().max() / expected.abs().max()
    if not difference < TOLERANCE:
        raise UserFailure(
            f"{path} does not compute what the encoder does: they differ by {difference:.2g}"
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
    parser = argparse.ArgumentParser(description="Export a published encoder.")
    parser.add_argument("encoder", help="an MLflow run id, models:/<name>/<version> or @<alias>")
    parser.add_argument(
        "path", type=Path, help="a file that ends in .safetensors, .pth, .pt or .onnx; or a folder"
    )
    parser.add_argument(
        "--format",
        type=FolderFormat,
        choices=list(FolderFormat),
        help="of a folder; facts on stdin",
    )
    parser.add_argument("--mlflow", required=True, help="address of the MLflow server")
    arguments = parser.parse_args()
    address = arguments.encoder
    uri = address if address.startswith("models:/") else f"runs:/{address}/{FOLDER}"
    try:
        encoder = load_published(uri, arguments.mlflow)
        if arguments.format is None:
            difference = export_encoder(encoder, arguments.path)
        else:
            facts = ModelFacts.model_validate_json(sys.stdin.read())
            difference = export_folder(encoder, arguments.path, facts, arguments.format)
    except JobFailure as failure:
        sys.exit(" ".join(str(failure).split()))
    print(
        f"{arguments.path}: {encoder.spec.name} for images of {encoder.image_size} pixels; "
        f"outputs differ by at most {difference:.1g}"
    )


if __name__ == "__main__":
    main()
