"""Parquet and Arrow files as Hugging Face's library writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.unit.selfsup.data.test_decoding import encoded, photograph
from tests.unit.selfsup.data.test_sources import batches_of, under
from vicreg_platform.specs import HuggingFaceData
from vicreg_workers.selfsup.data.images import Images, unreadable
from vicreg_workers.selfsup.data.layouts import huggingface
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.errors import InvalidInput

JPEG = [encoded(photograph(40 + seed % 2, 30, seed)) for seed in range(24)]
LABELS = [n % 2 for n in range(24)]


def table(labels: list[int] | None = None, column: str = "image", **more: Any) -> pa.Table:
    images = [{"bytes": each, "path": f"{n}.jpg"} for n, each in enumerate(JPEG)]
    columns: dict[str, Any] = {column: images, "label": LABELS if labels is None else labels}
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    noted = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pa.table(columns | more).replace_schema_metadata(noted)


def write(root: Path, kind: str, content: pa.Table) -> None:
    (root / "set").mkdir()
    if kind == "parquet":
        pq.write_table(content[:12], root / "set" / "a.parquet", row_group_size=5)
        pq.write_table(content[12:], root / "set" / "b.parquet", row_group_size=5)
        return
    for name, part in (("a", content[:12]), ("b", content[12:])):
        with pa.OSFile(str(root / "set" / f"{name}.arrow"), "wb") as file:
            make = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
            with make(file, part.schema) as writer:
                writer.write_table(part, max_chunksize=5)


def open_set(root: Path, **options: Any) -> Images:
    spec = HuggingFaceData.model_validate({"source": "huggingface", "path": "set"} | options)
    return open_images(spec, under(root))


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_images_and_labels_are_those_of_the_rows(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind, table())
    images = open_set(tmp_path)
    assert list(images.labels) == LABELS
    assert images.classes == ["cat", "dog"]
    # Rows are counted within their file.
    assert images.name(13).endswith(("b.parquet: row 1", "b.arrow: row 1"))
    for number in (23, 0, 12, 11):
        assert images.content(number) == JPEG[number]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["parquet", "stream"])
def test_each_is_trained_on_once_an_epoch(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind, table())
    alone = list(batches_of(open_set(tmp_path)).epoch(1))
    loaded = list(batches_of(open_set(tmp_path), loaders=2).epoch(1))
    assert sorted(index for batch in alone for index in batch.indices) == list(range(24))
    for ours, theirs in zip(alone, loaded, strict=True):
        assert ours.indices == theirs.indices
        assert torch.equal(ours.views[0], theirs.views[0])


def test_other_columns_and_hidden_labels(tmp_path: Path) -> None:
    bare = pa.table({"img": JPEG, "fine": LABELS, "label": [-1] * 24})
    write(tmp_path, "parquet", bare)
    assert open_set(tmp_path, image_column="img").classes == []
    assert open_set(tmp_path, image_column="img", label_column="fine").classes == ["0", "1"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"image_column": "picture"},
            "image_column: .* has no column picture: it has image, label",
        ),
        ({"image_column": "label"}, "label holds int64, not encoded images"),
        ({"label_column": "image"}, "image holds struct.*, not the numbers of classes"),
        ({"label_column": "fine"}, "label_column: .* has no column fine"),
        ({"path": "empty"}, r"no \.parquet or \.arrow files in"),
        ({"path": "broken"}, "broken cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    write(tmp_path, "parquet", table())
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    whole = (tmp_path / "set" / "a.parquet").read_bytes()
    (tmp_path / "broken" / "a.parquet").write_bytes(whole[:-100])
    with pytest.raises(InvalidInput, match=text) as caught:
        open_set(tmp_path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["parquet", "stream"])
@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"picture": JPEG, "label": LABELS}, "has no column image: it has picture, label"),
        ({"image": JPEG}, "has no column label: it has image"),
        ({"image": LABELS, "label": LABELS}, "image holds int64, not encoded images"),
        ({"image": JPEG, "label": ["cat"] * 24}, "label holds string, not the numbers of classes"),
    ],
)
def test_each_file_must_have_the_columns(
    tmp_path: Path, kind: str, other: dict[str, Any], text: str
) -> None:
    write(tmp_path, kind, table())
    write(tmp_path / "set", kind, pa.table(other))
    file = next((tmp_path / "set" / "set").glob("b.*"))
    file.replace(tmp_path / "set" / file.name)
    with pytest.raises(InvalidInput, match=f"{file.name}.* {text}") as caught:
        open_set(tmp_path)
    assert "\n" not in str(caught.value)


def test_row_groups_are_held_up_to_a_bound_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "parquet", table())  # 3 row groups of 5, 5 and 2 images in each of 2 files
    assert len(open_set(tmp_path)) == 24
    assert caplog.records == []
    bound = 2 * sum(map(len, JPEG[:5])) + 2000  # two row groups, with what Parquet adds
    monkeypatch.setattr(huggingface, "HELD_BYTES", bound)
    images = open_set(tmp_path)
    (warning,) = caplog.messages
    assert "6 row groups of " in warning
    assert f"a process holds {bound / 1e6:.0f} MB" in warning
    held = images._held  # type: ignore[attr-defined]
    for number in [*range(24), 0]:
        assert images.content(number) == JPEG[number]  # type: ignore[attr-defined]
        assert len(held) == 1 or sum(column.nbytes for column in held.values()) <= bound
    assert len(held) > 1
    monkeypatch.setattr(huggingface, "HELD_BYTES", 1)
    images = open_set(tmp_path)
    for number in range(24):
        assert images.content(number) == JPEG[number]  # type: ignore[attr-defined]
        assert len(images._held) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("ends", [".parquet", "-0123456789abcdef.parquet"])
def test_the_splits_of_a_snapshot_are_not_mixed(tmp_path: Path, ends: str) -> None:
    (tmp_path / "set").mkdir()
    for number in range(2):
        part = table()[12 * number :][:12]
        pq.write_table(part, tmp_path / "set" / f"train-{number:05d}-of-00002{ends}")
    assert len(open_set(tmp_path)) == 24
    pq.write_table(table(), tmp_path / "set" / f"test-00000-of-00001{ends}")
    with pytest.raises(InvalidInput, match=r"set holds the files of 2 splits \(test, train\)"):
        open_set(tmp_path)


@pytest.mark.parametrize("state", [None, "{}", "damaged", '{"_data_files": [1]}'])
def test_what_datasets_caches_beside_its_files_is_left_out(
    tmp_path: Path, state: str | None
) -> None:
    write(tmp_path, "stream", table())
    (tmp_path / "set" / "b.arrow").rename(tmp_path / "set" / "cache-0123456789abcdef.arrow")
    if state is not None:
        (tmp_path / "set" / "state.json").write_text(state)
    assert len(open_set(tmp_path)) == 12


def test_the_files_of_a_saved_data_set_are_those_that_it_lists(tmp_path: Path) -> None:
    write(tmp_path, "stream", table())
    state = {"_data_files": [{"filename": "b.arrow"}], "_split": "train"}
    (tmp_path / "set" / "state.json").write_text(json.dumps(state))
    images = open_set(tmp_path)
    assert len(images) == 12
    assert images.name(0).endswith("b.arrow: row 0")
    (tmp_path / "set" / "b.arrow").unlink()
    with pytest.raises(InvalidInput, match=r"set cannot be read: .*b\.arrow"):
        open_set(tmp_path)


def test_files_without_rows(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    pq.write_table(table()[:0], tmp_path / "set" / "a.parquet")
    with pytest.raises(InvalidInput, match="there are no images in"):
        open_set(tmp_path)
    pq.write_table(table(), tmp_path / "set" / "b.parquet")
    assert len(open_set(tmp_path)) == 24


def test_rows_without_bytes_are_left_out(tmp_path: Path) -> None:
    images = [{"bytes": None, "path": "elsewhere.jpg"}] + [
        {"bytes": each, "path": None} for each in JPEG[1:]
    ]
    write(tmp_path, "parquet", pa.table({"image": images, "label": LABELS}))
    opened = open_set(tmp_path)
    (batch,) = batches_of(opened, 24).epoch(0)
    assert list(batch.skipped) == [0]
    assert "it has no bytes: only its path is stored" in unreadable(opened, [0])[0]


def test_labels_are_checked_against_what_classes_there_can_be(tmp_path: Path) -> None:
    write(tmp_path, "stream", table(labels=[0, 1, 5] * 8))
    assert open_set(tmp_path).classes == ["0", "1", "2", "3", "4", "5"]  # two names are too few
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", "stream", table(labels=[0, 1, 2**31] * 8))
    with pytest.raises(InvalidInput, match="label holds 2147483648, which is not the number of a"):
        open_set(tmp_path / "other")
