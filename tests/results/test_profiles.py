"""Figures of what was measured before training."""

import numpy as np

from finetune_kit.results import figures, profiles


def estimate(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def similarity(taps=5, *, innovation=0.2):
    return {
        "profile": [
            {"tap": f"bn_{i}", "stage": f"stage_{i // 2}", "distance": estimate(0.3 + 0.1 * i),
             "innovation": innovation}
            for i in range(taps)
        ]
    }  # fmt: skip


def fit(*, probe=True):
    def stage(name, value):
        return {"stage": name, "probe": estimate(value) if probe else None}

    return {
        "stages": [stage("stem", 0.4), stage("stage_1", 0.6)],
        "last_three": stage("last three", 0.7),
        "chance": 0.25,
    }


def test_the_distance_of_every_tap_is_drawn_with_its_interval() -> None:
    figure = profiles.distance_profile(similarity())
    (axes,) = figure.axes
    distance, new = axes.lines
    np.testing.assert_allclose(distance.get_ydata(), [0.3, 0.4, 0.5, 0.6, 0.7])
    np.testing.assert_allclose(new.get_ydata(), 0.2)
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (round(band.ymin, 3), round(band.ymax, 3)) == (0.2, 0.8)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["stage 0", "stage 1", "stage 2"]
    np.testing.assert_allclose(axes.get_xticks(), [0.5, 2.5, 4.0])


def test_what_is_unknown_is_not_drawn() -> None:
    assert len(profiles.distance_profile(similarity(innovation=None)).axes[0].lines) == 1
    assert profiles.distance_profile(similarity(1)) is None
    assert profiles.probe_profile(fit(probe=False)) is None


def test_probes_stand_in_per_cent_with_chance() -> None:
    (axes,) = profiles.probe_profile(fit()).axes
    dots, chance = axes.lines
    np.testing.assert_allclose(dots.get_ydata(), [40, 60, 70])
    np.testing.assert_allclose(chance.get_ydata(), 25)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["stem", "stage 1", "last three"]


def test_they_follow_the_theme_of_the_page() -> None:
    text = figures.svg(profiles.distance_profile(similarity()), label="Distance")
    assert "var(--accent)" in text
    assert "#0a0b0" not in text
