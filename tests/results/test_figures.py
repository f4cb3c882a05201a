"""Figures: what is drawn, in which colours, and that the browser gets text it can read."""

import re
import xml.etree.ElementTree

import numpy as np
import pytest

from finetune_kit import checks, results
from finetune_kit.results import figures, tensorboard


def history(phases=("head", "all", "all", "all")):
    return [
        {"phase": phase, "epoch": epoch, "loss": 1.0 / (epoch + 1), "val_loss": 1.1 / (epoch + 1)}
        for epoch, phase in enumerate(phases)
    ]


def predictions(classes=4, n=80):
    generator = np.random.default_rng(0)
    labels = np.arange(n) % classes
    probabilities = generator.dirichlet(np.full(classes, 0.3), n)
    names = [f"class {index}" for index in range(classes)]
    return results.Predictions(
        "test", labels, probabilities, names, ["x"] * n, lambda i: np.full((8, 6, 3), i, np.uint8)
    )


def texts(figure):
    root = xml.etree.ElementTree.fromstring(figures.svg(figure, label="a figure"))
    return [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_curves_show_the_values_with_gaps() -> None:
    rows = history()
    rows[0]["loss"] = None
    figure = figures.learning_curve(rows, "loss")
    training, validation = (line for line in figure.axes[0].lines[:2])
    np.testing.assert_allclose(validation.get_ydata(), [1.1, 0.55, 1.1 / 3, 0.275])
    assert np.isnan(training.get_ydata()[0]) and training.get_ydata()[1] == 0.5
    assert {"training", "validation", "epoch"} <= set(texts(figure))


def test_phases_are_marked_between_their_epochs() -> None:
    figure = figures.learning_curve(history(("a", "a", "b", "c")), "loss")
    dashed = [line.get_xdata()[0] for line in figure.axes[0].lines if line.is_dashed()]
    assert dashed == [1.5, 2.5]
    assert [text.get_text() for text in figure.axes[0].texts[:3]] == ["1", "2", "3"]
    assert figures.phase_names(history(("a", "a", "b", "c"))) == ["a", "b", "c"]


def test_one_phase_has_no_marks() -> None:
    figure = figures.learning_curve(history(("all",) * 3), "loss")
    assert [text.get_text() for text in figure.axes[0].texts] == ["training", "validation"]


def test_the_chosen_epoch_wears_a_ring() -> None:
    figure = figures.learning_curve(history(), "loss", chosen_epoch=2)
    ring = figure.axes[0].lines[-1]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (2, pytest.approx(1.1 / 3))


def test_nothing_is_drawn_for_less_than_two_epochs() -> None:
    assert figures.learning_curve([], "loss") is None
    assert figures.learning_curve(history(("head",)), "loss") is None
    assert figures.learning_curve(history(), "accuracy") is None


def test_other_quantities_are_refused() -> None:
    with pytest.raises(checks.ConfigError, match="quantity must be one of loss, accuracy"):
        figures.learning_curve(history(), "rate")


def test_the_matrix_holds_the_counts() -> None:
    found = predictions()
    figure = figures.confusion_matrix(found)
    shown = {
        (round(text.get_position()[1]), round(text.get_position()[0])): int(text.get_text())
        for text in figure.axes[0].texts
    }
    expected = found.confusion()
    assert shown == {
        (row, column): expected[row, column]
        for row, column in zip(*expected.nonzero(), strict=True)
    }


def test_large_matrices_have_no_numbers_and_stay_readable() -> None:
    figure = figures.confusion_matrix(predictions(30, 300))
    assert not figure.axes[0].texts
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"class {index}" for index in range(30)]


def test_of_too_many_classes_those_with_mistakes_are_shown() -> None:
    labels = np.repeat(np.arange(70), 2)
    probabilities = np.eye(70)[labels]
    probabilities[120] = np.eye(70)[3]  # one image of class 60 is taken for class 3
    names = [str(index) for index in range(70)]
    found = results.Predictions("test", labels, probabilities, names, ["x"] * 140)
    figure = figures.confusion_matrix(found)
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(shown) == figures.MATRIX_UP_TO and {"3", "60"} <= set(shown)


def test_the_page_colours_its_figures() -> None:
    text = figures.svg(figures.confusion_matrix(predictions()), label='a "quoted" label')
    assert text.startswith("<svg") and "#0a0b0" not in text
    used = set(re.findall(r"var\(--([a-z-]+)\)", text))
    assert {"accent", "wrong", "ink", "muted", "sans"} <= used
    allowed = {"#ffffff", "#000000", "#none"}
    assert set(re.findall(r"#[0-9a-f]{6}", text)) <= allowed
    root = xml.etree.ElementTree.fromstring(text)
    assert root.get("aria-label") == 'a "quoted" label' and root.get("width") is None


def test_pixels_are_drawn_in_light_colours() -> None:
    figure = figures.confusion_matrix(predictions(), palette=figures.LIGHT)
    image = figures.pixels(figure)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert (image[0, 0] == 255).all()
    blue = (image[..., 2].astype(int) - image[..., 0]) > 60
    assert blue.mean() > 0.005


def test_contact_sheet_holds_the_pictures() -> None:
    found = predictions()
    sheet = tensorboard.contact_sheet(found, count=5)
    assert sheet.shape == (
        tensorboard.MARGIN + 2 * (tensorboard.SIDE + tensorboard.CAPTION + tensorboard.MARGIN),
        tensorboard.MARGIN + 4 * (tensorboard.SIDE + tensorboard.MARGIN),
        3,
    )
    middle = tensorboard.MARGIN + tensorboard.SIDE // 3
    assert sheet[middle, middle, 0] == found.mistakes(1)[0].position


def test_tensorboard_receives_the_pictures(tmp_path) -> None:
    from tensorboard.backend.event_processing import event_accumulator

    results.write_pictures(tmp_path / "tensorboard", predictions(), step=3)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["tensors"]) == ["test/confusion", "test/mistakes"]
    assert events.Tensors("test/confusion")[0].step == 3


def test_tensorboard_without_mistakes(tmp_path) -> None:
    from tensorboard.backend.event_processing import event_accumulator

    found = results.Predictions(
        "test", np.array([0, 1]), np.eye(2), ("a", "b"), ["x", "y"], lambda i: None
    )
    results.write_pictures(tmp_path, found)
    events = event_accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["tensors"] == ["test/confusion"]
