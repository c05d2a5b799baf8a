"""Weights of backbones, wherever they lie: MLflow, files, the caches of torch and Hugging Face.

A run publishes two files. ``encoder.safetensors`` holds the backbone alone, under its library's
names. ``encoder.json`` names its architecture and says how to prepare images for it.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import nn

from vicreg_platform.data_root import resolve_inside
from vicreg_platform.errors import NotFound, TrackingRefused, TrackingUnavailable
from vicreg_platform.specs import Backbone
from vicreg_platform.specs.init import (
    HuggingFaceWeights,
    Init,
    JobWeights,
    ModelWeights,
    PathWeights,
    RunWeights,
    TimmWeights,
)
from vicreg_platform.tracking import ENCODER, Tracking
from vicreg_workers.failures import InfrastructureFailure, UserFailure
from vicreg_workers.selfsup.model.match import match_weights
from vicreg_workers.storage import Folder

logger = logging.getLogger(__name__)

FOLDER = ENCODER
WEIGHTS = "encoder.safetensors"
DESCRIPTION = "encoder.json"
LEAST_SHARE = 0.9
"""Of a backbone's numbers that must be found if not all of them must."""
DOWNLOADS = "VICREG_ALLOW_DOWNLOADS"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")


def load_initial_weights(
    backbone: nn.Module,
    init: Init,
    spec: Backbone,
    *,
    job_run_id: str | None,
    tracking_uri: str,
    data_root: Path,
) -> None:
    """Load the weights that a pretraining starts from.

    Args:
        backbone: gets them.
        init: where they are.
        spec: the backbone's architecture.
        job_run_id: the run of the job, if they come from a job.
        tracking_uri: address of the MLflow server.
        data_root: the folder that paths are relative to.

    Raises:
        UserFailure: there are no such weights, or they do not fit.
        InfrastructureFailure: MLflow or the hub is unreachable.
    """
    weights: Mapping[str, Any]
    if isinstance(init, JobWeights | RunWeights | ModelWeights):
        if isinstance(init, ModelWeights):
            source = init.model
        else:
            run = job_run_id if isinstance(init, JobWeights) else init.run
            source = f"runs:/{run}/{FOLDER}"
        _, weights = published_weights(source, tracking_uri)
    elif isinstance(init, PathWeights):
        try:
            path = resolve_inside(data_root, init.path)
        except ValueError as error:
            raise UserFailure(f"init.path: {error}") from None
        source, weights = str(path), read_weights(path)
    elif isinstance(init, TimmWeights):
        source, weights = init.timm, read_weights(_timm_file(init.timm))
    elif isinstance(init, HuggingFaceWeights):
        source, weights = init.huggingface, read_weights(_hub_file("huggingface", init.huggingface))
    else:
        source = init.torchvision
        weights = read_weights(_torchvision_file(init.torchvision))
    load_weights(backbone, weights, spec, source, strict=init.strict)


def load_weights(
    backbone: nn.Module,
    weights: Mapping[str, Any],
    spec: Backbone,
    source: str,
    strict: bool = True,
) -> None:
    """Give a backbone weights of any published form.

    Args:
        backbone: gets them.
        weights: what a file holds, see ``match_weights``.
        spec: the backbone's architecture.
        source: where they come from, for messages.
        strict: whether all must fit; if not, 90 % of the backbone's numbers must.

    Raises:
        UserFailure: they do not fit.
    """
    match = match_weights(weights, backbone)
    network = f"{spec.name} with the {spec.stem} stem" if spec.library is None else spec.name
    if match.misfits and strict:
        raise UserFailure(
            f"the weights of {source} do not fit {network}: {match.described()} "
            f"({match.share:.1%} of its numbers fit)"
        )
    if match.share < LEAST_SHARE:
        raise UserFailure(
            f"the weights of {source} do not fit {network}: only {match.share:.1%} of its numbers "
            f"are found, and {LEAST_SHARE:.0%} are needed: {match.described()}"
        )
    backbone.load_state_dict(match.state, strict=False)
    left = f"; left out: {match.described()}" if match.misfits else ""
    logger.info("%.2f %% of %s is from %s%s", 100 * match.share, network, source, left)


def published_weights(uri: str, tracking_uri: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The description and the weights of the encoder at an MLflow address.

    Args:
        uri: ``runs:/<run>/encoder`` or ``models:/<name>/1``.
        tracking_uri: address of the MLflow server.

    Raises:
        UserFailure: there is none, or it is damaged.
        InfrastructureFailure: MLflow is unreachable.
    """
    with tempfile.TemporaryDirectory() as folder:
        with _encoder_at(uri):
            files = Tracking(tracking_uri).download(uri, Path(folder))
        found = next(files.rglob(DESCRIPTION), None)
        if found is None:
            raise UserFailure(
                f"{uri} holds no {DESCRIPTION}: it is not an encoder of this platform"
            )
        try:
            description = json.loads(found.read_text())
        except ValueError as error:
            raise UserFailure(f"the {DESCRIPTION} of {uri} is damaged: {error}") from None
        return description, read_weights(found.with_name(WEIGHTS))


def version_of(model: str, tracking_uri: str) -> str:
    """The version that an address in MLflow's model registry stands for now.

    Args:
        model: ``models:/<name>/<version>`` or ``models:/<name>@<alias>``.
        tracking_uri: address of the MLflow server.

    Raises:
        UserFailure: there is none.
        InfrastructureFailure: MLflow is unreachable.
    """
    with _encoder_at(model):
        return Tracking(tracking_uri).version_of(model)


@contextmanager
def _encoder_at(uri: str) -> Iterator[None]:
    try:
        yield
    except TrackingUnavailable as error:
        raise InfrastructureFailure(str(error)) from None
    except (NotFound, TrackingRefused) as error:
        raise UserFailure(f"there is no encoder at {uri}: {error}") from None


def kept_encoder(storage: str, job_id: str, epoch: int) -> Folder:
    """Where a training keeps its encoder of an epoch, with the files of a published one."""
    return Folder.of_job(storage, job_id) / "encoders" / f"epoch-{epoch:05d}"


def kept_weights(folder: Folder) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The description and the weights in a folder of ``kept_encoder``.

    Raises:
        UserFailure: they are not there, or damaged.
    """
    try:
        return json.loads(folder.read(DESCRIPTION)), load(folder.read(WEIGHTS))
    except FileNotFoundError:
        raise UserFailure(f"there is no encoder in {folder}: it has been removed") from None
    except (SafetensorError, ValueError) as error:
        raise UserFailure(f"the encoder in {folder} is damaged: {error}") from None


def read_weights(path: Path) -> Mapping[str, Any]:
    """What a ``.safetensors`` file, or a file of ``torch.save``, holds.

    Raises:
        UserFailure: it holds no weights, or more than weights.
    """
    try:
        if path.suffix == ".safetensors":
            weights: Any = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise UserFailure(f"{path} holds no weights: {error}") from None
    except Exception as error:
        # torch's unpickler refuses anything but tensors with its pickle module's own exception.
        raise UserFailure(f"{path} holds more than weights: {error}") from None
    if not isinstance(weights, Mapping):
        raise UserFailure(f"{path} holds no weights by name, but a {type(weights).__name__}")
    return weights


def _torchvision_file(name: str) -> Path:
    import torchvision

    try:
        weights = torchvision.models.get_weight(name)
    except (AttributeError, KeyError, ValueError):
        raise UserFailure(
            f"init.torchvision: torchvision {torchvision.__version__} knows no {name}; its weights "
            "have names such as ResNet50_Weights.IMAGENET1K_V2"
        ) from None
    return _torch_file("init.torchvision", name, weights.url)


def _timm_file(name: str) -> Path:
    import timm

    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # it knows the network, but not these weights of it
        config = None
    if config is None or not (config.hf_hub_id or config.url):
        raise UserFailure(
            f"init.timm: timm {timm.__version__} knows no weights {name}: give a network and its "
            "weights, such as resnet50.a1_in1k (timm.list_pretrained())"
        )
    if config.hf_hub_id:
        return _hub_file("timm", config.hf_hub_id)
    return _torch_file("init.timm", name, str(config.url))


def _torch_file(field: str, name: str, url: str) -> Path:
    """A file of torch's hub folder."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rpartition("/")[2]
    if path.is_file():
        return path
    if not _downloads_allowed():
        raise UserFailure(
            f"{field}: {name} is not on this machine: put {url} into {folder} of every worker "
            f"(TORCH_HOME moves it), or set {DOWNLOADS}=1 there"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except OSError as error:
        raise InfrastructureFailure(f"{url} cannot be downloaded: {error}") from None
    return path


def _hub_file(field: str, repository: str) -> Path:
    """The weights of a repository in Hugging Face's cache."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    allowed = _downloads_allowed()
    for name in _HUB_FILES:
        try:
            return Path(hf_hub_download(repository, name, local_files_only=not allowed))
        except LocalEntryNotFoundError as error:
            if allowed:
                raise InfrastructureFailure(f"{repository} cannot be downloaded: {error}") from None
        except RepositoryNotFoundError as error:
            raise UserFailure(f"init.{field}: {' '.join(str(error).split())}") from None
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise InfrastructureFailure(f"{repository} cannot be downloaded: {error}") from None
    if allowed:
        raise UserFailure(f"init.{field}: {repository} holds none of {', '.join(_HUB_FILES)}")
    raise UserFailure(
        f"init.{field}: {repository} is not on this machine: download it into "
        f"{constants.HF_HUB_CACHE} of every worker (HF_HOME moves it), or set {DOWNLOADS}=1 there"
    )


def _downloads_allowed() -> bool:
    return os.environ.get(DOWNLOADS, "").lower() in ("1", "true", "yes", "on")
