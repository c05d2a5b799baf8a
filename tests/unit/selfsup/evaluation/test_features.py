"""Representations: of several processes, in half precision, computed with a few at a time."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from tests.unit.selfsup.processes import Gloo
from vicreg_platform.specs import LinearProtocol
from vicreg_workers.selfsup import distributed
from vicreg_workers.selfsup.data.decoding import DecodedPicture
from vicreg_workers.selfsup.data.evaluation_batches import PlainBatch
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.evaluation import features as module
from vicreg_workers.selfsup.evaluation import linear
from vicreg_workers.selfsup.evaluation.features import Features, extract_together, features_of
from vicreg_workers.selfsup.evaluation.knn import knn_scores
from vicreg_workers.selfsup.evaluation.linear import linear_probe
from vicreg_workers.selfsup.evaluation.retrieval import retrieval_metrics

CPU = torch.device("cpu")


@pytest.fixture
def _in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)
    monkeypatch.setattr(linear, "CHUNK", 7)


def batches(pixels: Tensor, unreadable: int) -> Iterator[PlainBatch]:
    """Batches of 8 views; the image with the index ``unreadable`` is left out."""
    for indices in torch.split(torch.arange(len(pixels)), 8):
        kept = indices[indices != unreadable]
        missing = tuple(i for i in indices.tolist() if i == unreadable)
        yield pixels[kept], kept, missing


def extracted(scale: float = 1.0) -> tuple[Features, Tensor]:
    """The features of 20 images without the tenth, and the same in float64."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (20, 3, 2, 2), dtype=torch.uint8)
    layer = nn.Linear(12, 5).requires_grad_(False)
    layer.weight.mul_(scale)
    network = nn.Sequential(nn.Flatten(), layer)
    made = features_of(network, batches(pixels, unreadable=9), list(range(20)), CPU)
    views = pixels[made.indices].double() / 255
    mean, std = (
        torch.tensor(each, dtype=torch.float64).view(3, 1, 1)
        for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return made, network.double()((views - mean) / std)


def test_few_representations_are_kept_exactly() -> None:
    made, expected = extracted()
    assert made.representations.dtype == torch.float32
    torch.testing.assert_close(made.representations.double(), expected, rtol=1e-5, atol=1e-6)
    assert made.labels.tolist() == made.indices.tolist() == [i for i in range(20) if i != 9]
    assert made.corrupt == (9,)
    assert made.problem() is None


@pytest.mark.usefixtures("_in_small_chunks")
def test_many_representations_are_kept_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLOAT32_BYTES", 20 * 5 * 4 - 1)
    made, expected = extracted()
    assert made.representations.dtype == torch.float16
    assert made.representations.shape == (19, 5)
    torch.testing.assert_close(made.representations.double(), expected, rtol=2**-11, atol=1e-6)
    assert made.problem() is None
    large, _ = extracted(scale=1e6)
    assert "beyond 65504" in str(large.problem())


def test_representations_that_are_not_finite_are_a_problem() -> None:
    made, _ = extracted(scale=float("nan"))
    assert "weights are broken" in str(made.problem())


class Greys(Images):
    """Images of one colour each, of which those of some indices cannot be read."""

    def __init__(self, count: int, corrupt: Sequence[int] = ()) -> None:
        self.labels = [index % 3 for index in range(count)]
        self.classes = ["a", "b", "c"]
        self._corrupt = corrupt

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, index: int) -> DecodedPicture:
        if index in self._corrupt:
            raise OSError("broken")
        return DecodedPicture(Image.new("RGB", (4, 4), (index, 255 - index, 7 * index % 256)))

    def name(self, index: int) -> str:
        return f"grey {index}"


def extracted_in_batches_of_4(
    count: int, corrupt: Sequence[int], float32_bytes: int
) -> tuple[Features, list[int]]:
    """The features that this process gets, and the progress that it has reported."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    reported: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_SIZE", 4)
        patch.setattr(module, "FLOAT32_BYTES", float32_bytes)
        patch.setattr(distributed, "ROWS_SENT", 3)
        found = extract_together(network, Greys(count, corrupt), 4, CPU, progress=reported.append)
    return found, reported


@pytest.mark.parametrize("float32_bytes", [2**30, 1])
@pytest.mark.parametrize(
    ("count", "corrupt"),
    [
        (30, (5, 17, 29)),
        (30, range(16, 30)),  # nothing that the last processes can read
        (30, range(16)),  # nothing that the first ones can
        (3, ()),  # one batch
    ],
)
@pytest.mark.parametrize("size", ["two_processes", "four_processes"])
def test_several_processes_find_what_one_finds(
    request: pytest.FixtureRequest,
    size: str,
    count: int,
    corrupt: Sequence[int],
    float32_bytes: int,
) -> None:
    processes: Gloo = request.getfixturevalue(size)
    alone, _ = extracted_in_batches_of_4(count, corrupt, float32_bytes)
    (first, reported), *others = processes.run(
        extracted_in_batches_of_4, count, corrupt, float32_bytes
    )
    assert first.representations.dtype == alone.representations.dtype
    assert torch.equal(first.representations, alone.representations)
    assert torch.equal(first.labels, alone.labels)
    assert torch.equal(first.indices, alone.indices)
    assert first.corrupt == alone.corrupt == tuple(corrupt)
    # No process but the first holds more than its equal part of the 8 batches.
    assert all(len(part.indices) <= 8 // (len(others) + 1) * 4 for part, _ in others)
    if reported:
        assert reported[-1] == count


def none_readable() -> str:
    with pytest.raises(InvalidInput) as caught:
        extracted_in_batches_of_4(30, range(30), 2**30)
    return str(caught.value)


def test_every_process_says_that_no_image_can_be_read(two_processes: Gloo) -> None:
    assert two_processes.run(none_readable) == ["data: none of 30 images can be read"] * 2


def drawn(count: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    points = torch.eye(3, 6)[labels] * 4 + torch.randn(count, 6, generator=generator)
    return Features(points, labels, torch.arange(count), corrupt=())


def halved(features: Features) -> Features:
    half = features.representations.half()
    return Features(half, features.labels, features.indices, features.corrupt)


@pytest.mark.usefixtures("_in_small_chunks")
@pytest.mark.parametrize("k", [1, 5, 40])
def test_neighbours_of_all_chunks_vote(k: int) -> None:
    """An independent writing: the whole matrix in float64."""
    train, test = drawn(40, seed=0), drawn(30, seed=1)
    bank, queries = (normalize(each.representations.double(), dim=1) for each in (train, test))
    similarity = queries @ bank.T
    best = similarity.topk(k, dim=1)
    weights = ((best.values - best.values[:, :1]) / 0.5).exp()
    votes = torch.zeros(30, 3, dtype=torch.float64)
    for n in range(30):
        for weight, neighbour in zip(weights[n], best.indices[n], strict=True):
            votes[n, train.labels[neighbour]] += weight
    scores = knn_scores(train, test.representations, k, 0.5, 3)
    torch.testing.assert_close(scores.double(), votes, rtol=1e-5, atol=1e-5)
    half = knn_scores(halved(train), halved(test).representations, k, 0.5, 3)
    assert half.dtype == torch.float32
    assert (half.argmax(1) == scores.argmax(1)).float().mean() > 0.95


def test_the_size_of_a_chunk_changes_no_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = drawn(60, seed=0), drawn(30, seed=1)
    protocol = LinearProtocol(name="linear", epochs=3, batch_size=16, learning_rates=(0.1, 1.0))

    def measured() -> tuple[Tensor, dict[str, float]]:
        probe = linear_probe(train, train.labels, test.representations, protocol, 3)
        return probe.scores, retrieval_metrics(train, test.representations, test.labels)

    scores, found = measured()
    monkeypatch.setattr(module, "CHUNK", 7)
    monkeypatch.setattr(linear, "CHUNK", 7)
    monkeypatch.setattr("vicreg_workers.selfsup.evaluation.retrieval.RANKED", 60 * 4)
    torch.testing.assert_close(measured()[0], scores, rtol=1e-5, atol=1e-5)
    assert measured()[1] == pytest.approx(found)


def test_a_probe_of_half_precision_is_that_of_its_values() -> None:
    train, test = halved(drawn(60, seed=0)), halved(drawn(30, seed=1))
    protocol = LinearProtocol(name="linear", epochs=3, batch_size=16, learning_rates=(0.1,))
    half = linear_probe(train, train.labels, test.representations, protocol, 3).scores
    whole = Features(train.representations.float(), train.labels, train.indices, ())
    single = linear_probe(whole, whole.labels, test.representations.float(), protocol, 3).scores
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, single, rtol=0, atol=0)
