"""A job's folder is written atomically, and read as other processes left it."""

import threading
from pathlib import Path

import pytest

from vicreg_workers.storage import Folder


@pytest.mark.parametrize("kind", ["path", "url", "object store"])
def test_files_are_written_listed_and_removed(tmp_path: Path, kind: str) -> None:
    storage = {
        "path": f"{tmp_path}/",
        "url": f"file://{tmp_path}",
        "object store": f"memory://{tmp_path.name}",
    }[kind]
    folder = Folder.of_job(storage, "job") / "trials"
    assert folder.names() == []
    folder.write("b.json", b"2")
    folder.write("a.json", b"1")
    folder.write("a.json", b"3")
    (folder / "00000").write("mark")
    assert folder.names() == ["00000", "a.json", "b.json"]
    assert (folder.read("a.json"), folder.holds("c.json")) == (b"3", False)
    folder.remove_file("a.json")
    assert not folder.holds("a.json")
    Folder.of_job(storage, "job").remove()
    assert folder.names() == []
    folder.remove()  # removing what does not exist is fine


def test_a_failed_write_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder.of_job(str(tmp_path), "job")
    folder.write("manifest.json", b"old")

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("vicreg_workers.storage.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        folder.write("manifest.json", b"new")
    assert folder.read("manifest.json") == b"old"
    assert folder.names() == ["manifest.json"]


@pytest.mark.parametrize("kind", ["path", "object store"])
def test_a_file_written_piece_by_piece_is_there_when_it_is_whole(tmp_path: Path, kind: str) -> None:
    storage = {"path": str(tmp_path), "object store": f"memory://{tmp_path.name}"}[kind]
    folder = Folder.of_job(storage, "job")
    with folder.writer("shared.pt") as file:
        file.write(b"first ")
        assert not folder.holds("shared.pt")
        file.write(b"second")
    assert folder.read("shared.pt") == b"first second"
    with pytest.raises(TypeError), folder.writer("shared.pt") as file:
        file.writelines([b"third", "not bytes"])  # type: ignore[list-item]
    assert folder.read("shared.pt") == b"first second"
    assert folder.names() == ["shared.pt"]


def test_the_layout_on_disk(tmp_path: Path) -> None:
    (Folder.of_job(str(tmp_path), "job") / "attempt-1").write("stop")
    assert (tmp_path / "job" / "attempt-1" / "stop").exists()


def test_several_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    # As the workers of one attempt do, when each marks that it trains.
    folder = Folder.of_job(str(tmp_path), "job")
    barrier = threading.Barrier(8)
    faults: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(50):
                barrier.wait()
                folder.write("training", content)
        except BaseException as error:
            faults.append(error)
            barrier.abort()

    threads = [threading.Thread(target=write, args=(bytes([n]) * 1000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert folder.names() == ["training"]
    assert len(set(folder.read("training"))) == 1
