# SPDX-License-Identifier: Apache-2.0
"""The figures and sketches of docs/steps.md; src/trace/row_statistics_test.cpp has the same ones."""

import numpy as np
import pytest

from plumb_capture.row_statistics import summarize


def test_the_sketch_of_the_document():
    figures, sketches = summarize(np.arange(1, 201)[None])
    assert sketches[0, :8].tolist() == [-258, 502, 506, 158, -514, 162, -232, 294]
    assert sketches[0, 63] == 303
    assert sketches.dtype == np.float32 and sketches.shape == (1, 64)
    assert figures[0, [0, 1, 2, 4, 5, 7]].tolist() == [200, 0, 100.5, 1, 200, 199]
    assert figures[0, 6] == pytest.approx(np.sqrt(np.sum(np.arange(1, 201) ** 2)))


def test_what_is_not_finite_is_counted_and_left_out():
    rows = np.random.default_rng(0).standard_normal((3, 100))
    bad = rows.copy()
    bad[0, 7], bad[1, 8], bad[2, :] = np.nan, -np.inf, np.nan
    figures, sketches = summarize(bad)
    assert figures[:, 1].tolist() == [1, 1, 100]
    rows[0, 7] = 0
    assert np.array_equal(sketches[0], summarize(rows[:1])[1][0])
    assert figures[0, 6] == pytest.approx(np.linalg.norm(rows[0]))
    assert np.isnan(figures[2, 2:7]).all() and figures[2, 7] == -1
    assert not sketches[2].any()


def test_the_first_of_several_largest_counts():
    assert summarize(np.array([[1.0, -3.0, 3.0]]))[0][0, 7] == 1


def test_the_squared_length_is_kept_on_average():
    """E|s|² = |x|²; of 4000 rows the mean is known to 0.177 / 63 = 0.003."""
    rows = np.random.default_rng(1).standard_normal((4000, 576))
    figures, sketches = summarize(rows)
    ratio = (sketches.astype(np.float64) ** 2).sum(axis=1) / figures[:, 6] ** 2
    assert abs(ratio.mean() - 1) < 0.015
    assert ratio.std() < 1.1 * np.sqrt(2 / 64)
