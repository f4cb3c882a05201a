"""The page is whole in one file, says what the report says, and cannot be injected into."""

import base64
import html.parser
import io
import re

import numpy as np
import PIL.Image
import pytest

from finetune_kit import metrics, results
from finetune_kit.results import page

VOID = {"meta", "img", "br", "link", "input"}
EVIL = "<script>alert('x')</script>"


class Reader(html.parser.HTMLParser):
    """Checks that tags are balanced; collects the text and what is referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.text, self.references, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.references += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.references += [value for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def read(text):
    """Returns a reader that has read a page, with its words joined by single spaces."""
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    reader.words = " ".join(" ".join(reader.text).split())
    return reader


def predictions(classes=4, n=60, *, side=20, names=None):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, n)
    logits = generator.normal(size=(n, classes))
    logits[np.arange(n), labels] += 1.0
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return results.Predictions(
        split="test",
        labels=labels,
        probabilities=probabilities,
        class_names=names or [f"class {index}" for index in range(classes)],
        names=[f"photo {index}.jpg" for index in range(n)],
        picture=lambda position: np.full((side, side, 3), position, np.uint8),
    )


def report(found=None, **changes):
    scores = metrics.score(found.labels, found.probabilities) if found else None
    history = [
        {"phase": "head", "epoch": 0, "val_loss": 0.9, "val_accuracy": 0.5},
        {"phase": "all", "epoch": 1, "loss": 0.8, "accuracy": 0.6, "val_loss": 0.7},
        {"phase": "all", "epoch": 2, "loss": 0.5, "accuracy": 0.7, "val_loss": 0.6},
    ]
    values = {
        "recipe": "probe_then_finetune",
        "config": {"data": "photos", "backbone": "bundled", "workdir": "runs/1", "seed": 3},
        "data": {
            "source": "photos",
            "counts": {"train": {"class 0": 1234}, "test": {"class 0": 60}},
        },
        "plan": ({"group": "stem", "trains": False, "rate": 1.25e-5},),
        "history": tuple(history),
        "scores": {"validation": None, "test": scores},
        "outcome": {"chosen_epoch": 2, "reason": "the lowest loss"},
        "seconds": {"total": 61.0, "training": 40.0},
        "device": "CPU",
        "notes": ("broken.jpg was left out: it ends early",),
    }
    return results.Report(**(values | changes)).to_dict()


def test_the_page_says_what_the_report_says() -> None:
    found = predictions()
    scores = metrics.score(found.labels, found.probabilities)
    words = read(page.render(report(found), found)).words
    accuracy = scores["accuracy"]
    assert f"{page.percent(accuracy.value)} % of 60 test images recognised." in words
    assert f"{page.percent(accuracy.low)} – {page.percent(accuracy.high)}" in words
    for expected in (
        "probe_then_finetune",
        "1,234 images",
        "1 min 1 s",
        "broken.jpg was left out: it ends early",
        "stem no 1.25e-5",
        "The ring marks epoch 2, whose weights were kept: the lowest loss.",
        "Phases: 1 head , 2 all",
        f"{scores['log_loss'].value:.3f}",
    ):
        assert expected in words or expected.replace(" ,", ",") in words, expected


@pytest.mark.parametrize(("size", "shown"), [(96, "96"), ([96, 128], "96x128")])
def test_the_size_of_images_is_shown_as_the_flag_takes_it(size, shown) -> None:
    words = read(page.render(report(config={"image_size": size, "seed": 3}))).words
    assert f"image_size {shown} seed 3" in words or f"image size {shown} seed 3" in words


def test_the_page_needs_nothing_from_elsewhere() -> None:
    found = predictions()
    text = page.render(report(found), found)
    reader = read(text)
    assert all(ref.startswith(("data:image/", "#")) for ref in reader.references)
    assert "script" not in reader.tags
    assert not re.search(r"url\((?!#)|@import", text)


def test_the_page_can_be_made_again_from_the_report_alone() -> None:
    words = read(page.render(report())).words
    assert "What trained" in words and "Where it is right" not in words


def test_an_empty_report_still_makes_a_page() -> None:
    empty = results.Report(recipe="head_only", config={}, data={}).to_dict()
    assert "head_only" in read(page.render(empty)).words


@pytest.mark.parametrize("classes", [2, 13, 25, 60])
def test_pages_of_few_and_many_classes(classes) -> None:
    found = predictions(classes, n=4 * classes)
    words = read(page.render(report(found), found)).words
    assert ("more classes" in words) == (classes > page.CLASSES_OPEN)
    assert ("others are left out" in words) == (classes > 50)


def test_text_of_the_user_is_escaped_everywhere() -> None:
    names = [EVIL, "$a$ & $b$", 'q"uote', "日本語"]
    found = predictions(names=names)
    values = report(
        found,
        recipe=EVIL,
        config={"data": EVIL, EVIL: EVIL},
        data={"source": EVIL, "counts": {"train": {EVIL: 1}}},
        notes=(EVIL,),
        history=tuple({"phase": EVIL + str(i), "epoch": i, "loss": 1.0} for i in range(3)),
        plan=({EVIL: EVIL},),
    )
    text = page.render(values, found)
    assert "<script" not in text
    assert "$a$ &amp; $b$" in text and "日本語" in text
    read(text)


def test_pictures_of_mistakes_are_embedded() -> None:
    found = predictions()
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', page.render(report(found), found))
    assert len(sources) == page.MISTAKES
    first = PIL.Image.open(io.BytesIO(base64.b64decode(sources[0])))
    assert np.asarray(first)[0, 0, 0] == found.mistakes(1)[0].position


def test_large_pictures_are_made_small() -> None:
    found = predictions(side=1000)
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page.render(report(found), found))
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(sources[0])))
    assert picture.size == (page.PICTURE_SIDE, page.PICTURE_SIDE)


def test_without_mistakes() -> None:
    labels = np.arange(6) % 2
    found = results.Predictions("test", labels, np.eye(2)[labels], ("a", "b"), ["x"] * 6)
    words = read(page.render(report(found), found)).words
    assert "No mistakes." in words and "Most confident mistakes" not in words


def test_what_was_left_out_is_listed() -> None:
    bad = [{"name": f"bad {index}.jpg", "reason": "the file is empty"} for index in range(22)]
    audit = {"listed": 1256, "decoded": 1234, "bad": bad, "ignored": {".txt": 3}, "median_side": 96}
    values = report()
    words = read(page.render(values | {"data": values["data"] | {"audit": audit}})).words
    assert "1,234 of 1,256 files could be decoded; their short side is 96 px" in words
    assert "as they are no images: 3 .txt." in words
    assert "bad 19.jpg the file is empty" in words and "bad 20.jpg" not in words
    assert "and 2 more" in words


@pytest.mark.parametrize(
    ("source", "name"),
    [("/home/me/photos/birds", "photos/birds"), ("tfds:beans", "beans"), ("a.csv", "a.csv")],
)
def test_the_title_is_the_end_of_the_source(source, name) -> None:
    values = report(data={"source": source})
    assert read(page.render(values)).words.startswith(f"probe_then_finetune on {name}")


def test_same_report_same_page() -> None:
    found = predictions()
    values = report(found)
    assert page.render(values, found) == page.render(values, found)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.00012, "1.2e-4"),
        (3.16227e-6, "3.16e-6"),
        (1234567, "1,234,567"),
        (0.015, "0.015"),
        (True, "yes"),
        (None, "–"),
        ({"a": 1.5}, "a 1.5"),
        ([1, "x"], "1, x"),
    ],
)
def test_numbers(value, text) -> None:
    assert page.number(value) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.9996, "99.9"), (1.0, "100.0"), (0.98765, "98.8"), (0.0, "0.0")]
)
def test_only_a_whole_that_is_one_is_100_percent(share, text) -> None:
    assert page.percent(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (37.4, "37 s"),
        (59.7, "1 min 0 s"),
        (252, "4 min 12 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds, text) -> None:
    assert page.duration(seconds) == text


def test_the_rest_of_the_time_is_shown() -> None:
    parts = page._seconds({"seconds": {"total": 10.0, "data": 2.0, "training": 5.0}})
    assert [(part["name"], part["seconds"]) for part in parts] == [
        ("training", 5.0),
        ("other", 3.0),
        ("data", 2.0),
    ]


def test_write_leaves_page_and_report(tmp_path) -> None:
    found = predictions()
    scores = metrics.score(found.labels, found.probabilities)
    value = results.Report(recipe="r", config={}, data={}, scores={"test": scores})
    assert results.write(value, tmp_path, found) == tmp_path / "report.html"
    assert results.read(tmp_path)["scores"]["test"] == scores.to_dict()
    assert "Confusion matrix" in (tmp_path / "report.html").read_text(encoding="utf-8")
