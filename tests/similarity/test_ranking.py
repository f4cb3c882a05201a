"""The order of networks: probes first, published accuracy in a draw, scores never."""

from finetune_kit import metrics
from finetune_kit.similarity import ranking, types


def fit(last, everything, *, logme=0.0, leep=None):
    """Returns a fit with these accuracies of 100 images, None where there was no probe."""

    def stage(name, hits, score):
        probe = None if hits is None else metrics.wilson(hits, 100)
        return types.StageFit(name, None, probe, score, 0.5 + score / 10)

    own = stage("stage_4", last, logme)
    whole = stage("all stages", everything, logme + 1)
    return types.TaskFit((own,), "stage_4", own, own, whole, 0.1, 100, leep=leep)


def names(*candidates):
    return [row.name for row in ranking.rank(candidates).rows]


def test_the_better_of_the_two_probes_decides_and_scores_do_not() -> None:
    found = ranking.rank(
        [
            ("b", fit(70, 80, logme=9.0, leep=-0.1), 0.9),
            ("a", fit(90, 60, logme=-9.0), None),
            ("c", fit(75, 75, logme=99.0), 0.1),
        ]
    )
    assert [row.name for row in found.rows] == ["a", "b", "c"]
    first, second, third = found.rows
    assert (first.by, second.by, third.by) == ("stage_4", "all stages", "stage_4")
    assert (first.probe, second.probe) == (metrics.wilson(90, 100), metrics.wilson(80, 100))
    assert (first.logme, second.logme) == (-9.0, 10.0)
    assert (first.h_score, second.h_score) == (0.5 - 0.9, 0.5 + 1.0)
    assert (first.leep, second.leep, second.static) == (None, -0.1, 0.9)


def test_published_accuracy_settles_a_draw_and_orders_what_was_not_probed() -> None:
    unknown = fit(None, None, logme=50.0)
    assert names(("x", fit(80, 80), 0.6), ("y", fit(80, 80), 0.7)) == ["y", "x"]
    assert names(("x", fit(80, 80), None), ("y", fit(80, 80), 0.7)) == ["y", "x"]
    assert names(("x", unknown, 0.6), ("y", unknown, 0.7), ("z", fit(1, 1), 0.1)) == ["z", "y", "x"]
    assert names(("x", unknown, None), ("y", unknown, None)) == ["x", "y"]
    assert names() == []


def test_one_probe_is_enough() -> None:
    (row,) = ranking.rank([("x", fit(None, 40), None)]).rows
    assert (row.by, row.probe) == ("all stages", metrics.wilson(40, 100))
    (row,) = ranking.rank([("x", fit(40, None), None)]).rows
    assert (row.by, row.probe) == ("stage_4", metrics.wilson(40, 100))


def test_the_table_is_text_under_its_headings() -> None:
    found = ranking.rank(
        [("x", fit(80, 70, logme=0.25, leep=-1.234), 0.704), ("y", fit(None, None), None)]
    )
    first, second = found.table()
    assert first == (
        "x", "80.0 %", "71.1 – 86.7 %", "stage_4", "70.4 %", "0.250", "0.53", "-1.23"
    )  # fmt: skip
    assert second == ("y", "–", "–", "stage_4", "–", "0.000", "0.50", "–")
    assert len(ranking.HEADINGS) == len(first)


def test_the_warning_gives_the_figures_and_their_source() -> None:
    warning = ranking.rank([]).warning
    for words in ("0.69 for ImageNet top-1", "0.57 for LogME", "0.40 for LEEP", "2510.06448"):
        assert words in warning
