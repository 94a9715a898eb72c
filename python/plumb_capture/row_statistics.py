# SPDX-License-Identifier: Apache-2.0
"""Statistics and sketches in place of values, as docs/steps.md defines them. Needs NumPy only."""

import numpy as np

STATISTICS = 8
SKETCH = 64
_SEED = 0x706C756D62  # "plumb"
_buckets = {}  # by width


def _splitmix64(index):
    """Output number `index` of the generator that was started with the seed."""
    with np.errstate(over="ignore"):
        z = np.uint64(_SEED) + (index.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def buckets(width):
    """For each channel of a row the place in the sketch that it goes to, and its sign."""
    if width not in _buckets:
        channel = np.arange(width)
        block = channel // SKETCH
        word = _splitmix64(2 * block)
        turn = (_splitmix64(2 * block + 1) >> np.uint64(58)).astype(np.int64)
        bit = (word >> (channel % SKETCH).astype(np.uint64)) & np.uint64(1)
        _buckets[width] = (channel + turn) % SKETCH, np.where(bit == 1, -1.0, 1.0)
    return _buckets[width]


def summarize(rows):
    """Rows [m, width] of real numbers as (statistics [m, 8] F64, sketches [m, 64] F32).

    The figures: count, not finite, mean, standard deviation of the population, minimum, maximum, L2 norm, index of the
    first largest magnitude. All behind the second are of the finite values.
    """
    x = np.asarray(rows, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"rows have the shape {list(x.shape)}; expected [positions, width]")
    finite = np.isfinite(x)
    filled = np.where(finite, x, 0.0)
    count = finite.sum(axis=1)
    out = np.empty((x.shape[0], STATISTICS))
    out[:, 0] = x.shape[1]
    out[:, 1] = x.shape[1] - count
    some = np.maximum(count, 1)
    mean = filled.sum(axis=1) / some
    out[:, 2] = mean
    out[:, 3] = np.sqrt((np.where(finite, x - mean[:, None], 0.0) ** 2).sum(axis=1) / some)
    out[:, 4] = np.where(finite, x, np.inf).min(axis=1)
    out[:, 5] = np.where(finite, x, -np.inf).max(axis=1)
    out[:, 6] = np.sqrt((filled ** 2).sum(axis=1))
    out[:, 7] = np.where(finite, np.abs(x), -1.0).argmax(axis=1)
    out[count == 0, 2:7] = np.nan
    out[count == 0, 7] = -1
    place, sign = buckets(x.shape[1])
    sketch = np.zeros((x.shape[0], SKETCH))
    for j in range(SKETCH):
        here = place == j
        if here.any():
            sketch[:, j] = filled[:, here] @ sign[here]
    with np.errstate(over="ignore"):
        return out, sketch.astype(np.float32)
