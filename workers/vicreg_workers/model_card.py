"""Writes the model card of an exported encoder: ``README.md``, and a picture of its loss.

The front matter is that of the Hugging Face Hub
(https://huggingface.co/docs/hub/model-cards#model-card-metadata).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from vicreg_platform.contract.model_facts import ModelFacts

CARD = "README.md"
LOSS = "loss.png"
_DATASETS = {
    "MNIST": "ylecun/mnist",
    "FashionMNIST": "zalando-datasets/fashion_mnist",
    "CIFAR10": "uoft-cs/cifar10",
    "CIFAR100": "uoft-cs/cifar100",
    "Food101": "ethz/food101",
    "ImageNet": "ILSVRC/imagenet-1k",
}
"""What the Hub calls data sets of torchvision."""
_METHODS = {
    "vicreg": "VICReg",
    "vicregl": "VICRegL",
    "barlow_twins": "Barlow Twins",
    "simclr": "SimCLR",
    "byol": "BYOL",
    "simsiam": "SimSiam",
}
_RECIPE = (
    "method",
    "backbone",
    "init",
    "expander",
    "branches",
    "data",
    "augmentation",
    "optimizer",
    "training",
)
"""The sections of a spec that decide what is trained; others say where and when."""
_VICREG = """@inproceedings{bardes2022vicreg,
  title     = {{VICReg}: Variance-Invariance-Covariance Regularization for Self-Supervised Learning},
  author    = {Bardes, Adrien and Ponce, Jean and LeCun, Yann},
  booktitle = {International Conference on Learning Representations},
  year      = {2022},
  url       = {https://arxiv.org/abs/2105.04906}
}
"""  # noqa: E501
_VICREGL = """@inproceedings{bardes2022vicregl,
  title     = {{VICRegL}: Self-Supervised Learning of Local Visual Features},
  author    = {Bardes, Adrien and Ponce, Jean and LeCun, Yann},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022},
  url       = {https://arxiv.org/abs/2210.01571}
}
"""


def write_card(facts: ModelFacts, config: Mapping[str, Any], folder: Path, address: str) -> None:
    """Write a card beside an encoder.

    Args:
        facts: what it says.
        config: the folder's ``config.json``.
        folder: of the encoder.
        address: by which timm loads the encoder, such as ``hf-hub:user/name``.
    """
    finite = [(step, loss) for step, loss in facts.loss if math.isfinite(loss)]
    if finite:
        _plot_loss(finite, folder / LOSS)
    parts = (
        f"---\n{_yaml(_front_matter(facts))}---",
        f"# {_line(facts.name)}",
        _summary(facts, config),
        "## Use it",
        _usage(address, config),
        "## Data and recipe",
        _table(("", ""), _overview(facts.spec)),
        f"All settings:\n\n```yaml\n{_yaml(_recipe(facts.spec))}```",
        "## Scores",
        _scores(facts),
        f"## Curve\n\n![The loss at each step of the training]({LOSS})" if finite else "",
        "## License",
        _license(facts.license),
        "## Citation",
        f"```bibtex\n{_citation(facts.spec)}```",
    )
    (folder / CARD).write_text("\n\n".join(part for part in parts if part) + "\n")


def _front_matter(facts: ModelFacts) -> dict[str, Any]:
    matter: dict[str, Any] = {
        "license": facts.license,
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["timm", "transformers", "self-supervised-learning", _method(facts.spec)],
    }
    dataset = _DATASETS.get(str(facts.spec["data"].get("dataset")))
    if dataset is not None:
        matter["datasets"] = [dataset]
    return matter


def _summary(facts: ModelFacts, config: Mapping[str, Any]) -> str:
    spec, size = facts.spec, config["pretrained_cfg"]["input_size"][-1]
    method = _METHODS.get(_method(spec), _method(spec))
    architecture = config["architecture"]
    return (
        f"An image encoder, pretrained without labels by {method}. It is a `{architecture}` "
        f"of timm without a classifier: an RGB image of {size}×{size} pixels becomes "
        f"{config['num_features']} numbers."
    )


def _usage(address: str, config: Mapping[str, Any]) -> str:
    source = address.partition(":")[2]
    return f"""```python
import timm
import torch
from PIL import Image

model = timm.create_model("{address}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.no_grad():
    features = model(transform(Image.open("image.jpg").convert("RGB")).unsqueeze(0))
# [1, {config["num_features"]}]
```

With transformers:

```python
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("{source}")
model = AutoModel.from_pretrained("{source}")
features = model(**processor(image, return_tensors="pt")).pooler_output
```"""


def _overview(spec: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    data, training, optimizer = spec["data"], spec["training"], spec["optimizer"]
    yield "Method", _METHODS.get(_method(spec), _method(spec))
    yield "Backbone", str(spec["backbone"]["name"])
    yield "Expander", "-".join(map(str, spec["expander"]["layers"]))
    yield "Data", _data(data)
    yield "Image size", f"{data['image_size']} pixels"
    yield "Epochs", str(training["epochs"])
    yield "Batch size", str(training["batch_size"])
    yield (
        "Optimizer",
        f"{optimizer['name']}, base learning rate {optimizer.get('base_lr')}, weight decay "
        f"{optimizer.get('weight_decay')}",
    )
    yield "Augmentation", str(spec["augmentation"]["preset"])
    yield "Precision", str(training["precision"])
    yield "Seed", str(training["seed"])


def _recipe(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: spec[name] for name in _RECIPE if spec.get(name) is not None}


def _scores(facts: ModelFacts) -> str:
    rows = [
        (metric, f"{value:.4g}", _settings(each.protocol), _data(each.data.get("test", {})))
        for each in facts.evaluations
        for metric, value in sorted(each.scores.items())
    ]
    rows += [
        (metric, f"{value:.4g}", "while training", "")
        for metric, value in sorted(facts.scores.items())
    ]
    if not rows:
        return "Not evaluated yet."
    return _table(("Metric", "Value", "Protocol", "Test images"), rows)


def _license(license_: str) -> str:
    if license_ == "other":
        return "Not chosen yet: set `license` at the top of this file, and say here what it allows."
    return f"`{_line(license_)}`"


def _citation(spec: Mapping[str, Any]) -> str:
    return _VICREG + (f"\n{_VICREGL}" if _method(spec) == "vicregl" else "")


def _method(spec: Mapping[str, Any]) -> str:
    return str(spec["method"]["name"])


def _data(data: Mapping[str, Any]) -> str:
    known = (data.get(name) for name in ("source", "dataset", "path", "split"))
    return ", ".join(str(each) for each in known if each is not None)


def _settings(protocol: Mapping[str, Any]) -> str:
    others = [f"{name} {value}" for name, value in protocol.items() if name != "name"]
    return f"{protocol.get('name')} ({', '.join(others)})" if others else str(protocol.get("name"))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(_line(cell).replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def _yaml(value: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)
    return text


def _plot_loss(points: Sequence[tuple[int, float]], file: Path) -> None:
    figure = Figure(figsize=(6, 3.2))
    axes = figure.add_axes((0.12, 0.16, 0.85, 0.78))
    steps, losses = zip(*points, strict=True)
    axes.plot(steps, losses, color="#3b6ea5", linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, format="png", dpi=110)
