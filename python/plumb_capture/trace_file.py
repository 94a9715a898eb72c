# SPDX-License-Identifier: Apache-2.0
"""Writes plumb's trace format: one safetensors file. Needs NumPy only."""

import datetime
import json
import os

VERSION = "1"
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I32": 4}


class CaptureError(Exception):
    """What was asked for cannot be recorded; the text says why and what to do."""


class _Step:
    def __init__(self, dtype, row_shape):
        self.dtype = dtype
        self.row_shape = row_shape
        self.rows = 0
        self.chunks = []  # (offset in the spill file, bytes)
        self.positions = []

    def row_bytes(self):
        size = _BYTES[self.dtype]
        for extent in self.row_shape:
            size *= extent
        return size


class TraceFile:
    """Rows are appended step by step; finish() puts them in order and renames the file.

    Each array goes to disk at once, so that memory holds one array and not the run.
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        self.partial = self.path + ".partial"
        self._spill_path = self.path + ".partial.rows"
        self._spill = open(self._spill_path, "w+b")
        self._size = 0
        self.steps = {}

    def append(self, name, dtype, row_shape, data, positions):
        """`data`: the bytes of len(positions) rows, little-endian, row by row."""
        step = self.steps.get(name)
        row_shape = tuple(int(n) for n in row_shape)
        if step is None:
            step = self.steps[name] = _Step(dtype, row_shape)
        if step.dtype != dtype or step.row_shape != row_shape:
            raise CaptureError(
                f"{name}: rows of {dtype} {list(row_shape)} after rows of {step.dtype} "
                f"{list(step.row_shape)}; a trace has one type and width for each step")
        if len(data) != step.row_bytes() * len(positions):
            raise CaptureError(f"{name}: {len(data)} bytes for {len(positions)} rows of {dtype} {list(row_shape)}")
        if step.positions and positions and positions[0] <= step.positions[-1]:
            raise CaptureError(
                f"{name}: position {positions[0]} came after position {step.positions[-1]}; "
                "record each position once, in order")
        self._spill.write(data)
        step.chunks.append((self._size, len(data)))
        self._size += len(data)
        step.positions.extend(positions)

    def append_statistics(self, name, rows, positions):
        """`rows`: values [len(positions), width]; their statistics and sketches are written in their place."""
        from .row_statistics import SKETCH, STATISTICS, summarize

        figures, sketches = summarize(rows)
        self.append(name + ".stats", "F64", (STATISTICS,), figures.astype("<f8").tobytes(), positions)
        self.append(name + ".sketch", "F32", (SKETCH,), sketches.astype("<f4").tobytes(), positions)

    def finish(self, about, count):
        """`about`: the object of docs/trace-format.md; `count`: how many tokens were fed."""
        header = {"__metadata__": {"plumb.trace": VERSION, "plumb": json.dumps(about)}}
        everything = list(range(count))
        parts = []  # bytes, or chunks of the spill file
        offset = 0

        def add(name, dtype, shape, size, part):
            nonlocal offset
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
            parts.append(part)

        for name, step in sorted(self.steps.items()):
            rows = len(step.positions)
            add(name, step.dtype, [rows, *step.row_shape], rows * step.row_bytes(), step.chunks)
        for name, step in sorted(self.steps.items()):
            if name.endswith(".sketch"):
                continue  # the positions are those of the step, and its statistics have said them
            if name.endswith(".stats"):
                name = name[:-len(".stats")]
            if step.positions != everything:
                data = b"".join(p.to_bytes(4, "little") for p in step.positions)
                add("positions:" + name, "I32", [len(step.positions)], len(data), data)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(self.partial, "wb") as out:
            out.write(len(text).to_bytes(8, "little"))
            out.write(text)
            for part in parts:
                if isinstance(part, bytes):
                    out.write(part)
                else:
                    self._copy(part, out)
        self.discard_rows()
        os.replace(self.partial, self.path)

    def _copy(self, chunks, out):
        for offset, size in chunks:
            self._spill.seek(offset)
            while size > 0:
                data = self._spill.read(min(size, 1 << 22))
                if not data:
                    raise CaptureError(f"{self._spill_path} is shorter than what was written to it")
                out.write(data)
                size -= len(data)

    def discard_rows(self):
        self._spill.close()
        if os.path.exists(self._spill_path):
            os.remove(self._spill_path)

    def discard(self):
        """Leaves nothing that could be taken for a trace."""
        self.discard_rows()
        if os.path.exists(self.partial):
            os.remove(self.partial)


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
