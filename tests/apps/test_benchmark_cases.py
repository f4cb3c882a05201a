"""The images of a case: drawn by a rule that other programs share."""

import hashlib
import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from apps.benchmarks import cases
from finetune_kit import checks


@pytest.fixture
def peers():
    folder = pathlib.Path(__file__).resolve().parents[3] / "shared" / "peers"
    if not folder.is_dir():
        pytest.skip("needs the shared peers and sets of images")
    return folder


def a_set(root, classes, names):
    for name in classes:
        (root / name).mkdir(parents=True)
        for image in names:
            (root / name / image).write_bytes(f"{name}/{image}".encode())
    return root


@pytest.fixture
def flat(tmp_path):
    return a_set(tmp_path / "flat", ["b", "a", "10", "2"], [f"{i}.png" for i in range(60)])


def contents(folder):
    return {
        os.fspath(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_images_are_those_of_the_peers(peers) -> None:
    spec = importlib.util.spec_from_file_location("peers_common", peers / "common.py")
    common = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(common)
    root = peers.parent / "data"
    for name in cases.sets_in(root):
        for per_class, seed in ((20, 0), (20, 1), (3, 7), (0, 0)):
            case = cases.draw(root / name, per_class=per_class, seed=seed)
            train, test, classes = common.split(root / name, per_class, seed)
            assert [(str(path), label) for path, label in case.train] == train
            assert [(str(path), label) for path, label in case.test] == test
            assert list(case.classes) == classes


def test_the_folder_is_that_of_make_case(peers, tmp_path) -> None:
    source = peers.parent / "data" / "pacs_cartoon"
    command = [sys.executable, peers / "make_case.py", source, "4", "1", tmp_path / "theirs"]
    subprocess.run(command, check=True, capture_output=True)
    case = cases.draw(source, per_class=4, seed=1)
    ours = cases.write(case, tmp_path / "ours")
    assert contents(ours) == contents(tmp_path / "theirs")


def test_train_and_test_share_no_image_and_the_test_split_knows_no_seed(flat) -> None:
    first, second = (cases.draw(flat, per_class=5, seed=seed) for seed in (0, 1))
    assert first.classes == ("10", "2", "a", "b")
    assert first.test == second.test and first.train != second.train
    assert not {path for path, _ in first.train} & {path for path, _ in first.test}
    assert [label for _, label in first.train] == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    hashed = {
        path
        for path in flat.rglob("*.png")
        if int(hashlib.md5(path.name.encode()).hexdigest(), 16) % 5 == 0
    }
    assert {path for path, _ in first.test} == hashed and hashed


def test_a_class_with_few_images_gives_all_and_the_test_split_is_capped(flat) -> None:
    everything = cases.draw(flat, per_class=0, seed=0)
    assert cases.draw(flat, per_class=1000, seed=3).train == everything.train
    assert len(everything.train) + len(everything.test) == 240
    capped = cases.draw(flat, per_class=0, seed=0, test_cap=7)
    assert capped.test == everything.test[:7]
    assert len({label for _, label in everything.test[:12]}) > 1


def test_a_test_folder_is_respected(tmp_path) -> None:
    a_set(tmp_path / "split" / "train", ["x", "y"], ["1.png", "2.png", "3.png"])
    a_set(tmp_path / "split" / "test", ["x", "y"], ["8.png", "9.png"])
    case = cases.draw(tmp_path / "split", per_class=2, seed=0)
    assert len(case.train) == 4 and {path.parts[-3] for path, _ in case.train} == {"train"}
    assert len(case.test) == 4 and {path.parts[-3] for path, _ in case.test} == {"test"}


def test_a_case_is_written_whole_or_not_at_all(flat, tmp_path) -> None:
    case = cases.draw(flat, per_class=2, seed=0)
    folder = tmp_path / "runs" / "case"
    (tmp_path / "runs" / ".case.partial" / "train").mkdir(parents=True)
    (tmp_path / "runs" / ".case.partial" / "train" / "old").write_text("left by a crash")
    assert cases.write(case, folder) == folder
    found = contents(folder)
    assert len(found) == len(case.train) + len(case.test)
    first, label = case.train[0]
    assert found[f"train/{case.classes[label]}/00000.png"] == first.read_bytes()
    (folder / "train" / "10" / "00000.png").unlink()
    cases.write(case, folder)
    assert len(contents(folder)) == len(found) - 1, "a finished case is left as it is"


def test_the_digest_tells_cases_apart(flat, tmp_path) -> None:
    twin = a_set(tmp_path / "twin" / "flat", ["b", "a", "10", "2"], [f"{i}.png" for i in range(60)])
    case = cases.draw(flat, per_class=2, seed=0)
    assert case.digest == cases.draw(flat, per_class=2, seed=0).digest and len(case.digest) == 8
    others = [cases.draw(twin, per_class=2, seed=0), cases.draw(flat, per_class=2, seed=1)]
    case.train[0][0].write_bytes(b"another image")
    others.append(cases.draw(flat, per_class=2, seed=0))
    assert len({other.digest for other in others}) == 3


def test_what_is_no_set_is_refused(flat, tmp_path) -> None:
    (tmp_path / "one" / "a").mkdir(parents=True)
    with pytest.raises(checks.DataError, match="two classes.*with 1 classes and 0 test images"):
        cases.draw(tmp_path / "one", per_class=1, seed=0)
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(checks.DataError, match="one set of images a folder"):
            cases.sets_in(root)
    case = cases.draw(flat, per_class=1, seed=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(checks.EnvironmentFault, match="folder that can be written"):
        cases.write(case, tmp_path / "file" / "case")


def test_only_folders_of_folders_are_sets(flat, tmp_path) -> None:
    (tmp_path / "README.md").write_text("")
    (tmp_path / "notes").mkdir()
    assert cases.sets_in(tmp_path) == ("flat",)


def test_to_develop_no_test_image_is_looked_at(flat) -> None:
    drawn = cases.draw(flat, per_class=0, seed=0)
    for seed in (0, 1):
        case = cases.develop(flat, per_class=7, seed=seed)
        counts = [sum(label == k for _, label in case.train) for k in range(4)]
        assert counts == [7] * 4 and case.classes == drawn.classes
        assert set(case.train) | set(case.test) == set(drawn.train)
        assert not set(case.train) & set(case.test)
    other = cases.develop(flat, per_class=7, seed=0)
    assert set(other.train) != set(case.train)
    assert len(cases.develop(flat, per_class=7, seed=0, test_cap=20).test) == 20
    few = cases.develop(flat, per_class=999, seed=0)  # one image of every class to test on
    assert sorted(label for _, label in few.test) == [0, 1, 2, 3]
