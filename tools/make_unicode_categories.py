#!/usr/bin/env python3
"""Writes src/tokenizer/unicode_categories.inc: the general category of every code point in Unicode 16.0.

    make_unicode_categories.py OUT          needs the Python package unicodedata2 16.0 and Python's own tables of 14.0

Each line is a run of points: its first point, its category, and what it was in older versions: 1 if it was not assigned
in Unicode 14.0, 2 if not in 15.1 either. Tokenizers in use follow 15.1 and 16.0; PCRE2 often is older than both.
"""
import sys
import unicodedata

import unicodedata2

# Blocks that Unicode 15.0 and 15.1 added; all else that 14.0 did not have is new in 16.0. A block is enough: what was added
# is compared with 14.0 point by point, and the counts are checked below.
NEW_IN_15 = [
    (0x0CF3, 0x0CF3), (0x0ECE, 0x0ECE), (0x10EFD, 0x10EFF), (0x1123F, 0x11241), (0x11B00, 0x11B09), (0x11F00, 0x11F10),
    (0x11F12, 0x11F3A), (0x11F3E, 0x11F59), (0x1342F, 0x1342F), (0x13439, 0x13455), (0x1B132, 0x1B132), (0x1B155, 0x1B155),
    (0x1D2C0, 0x1D2D3), (0x1DF25, 0x1DF2A), (0x1E030, 0x1E06D), (0x1E08F, 0x1E08F), (0x1E4D0, 0x1E4F9), (0x1F6DC, 0x1F6DC),
    (0x1F774, 0x1F776), (0x1F77B, 0x1F77F), (0x1F7D9, 0x1F7D9), (0x1FA75, 0x1FA77), (0x1FA87, 0x1FA88), (0x1FAAD, 0x1FAAF),
    (0x1FABB, 0x1FABD), (0x1FABF, 0x1FABF), (0x1FACE, 0x1FACF), (0x1FADA, 0x1FADB), (0x1FAE8, 0x1FAE8), (0x1FAF7, 0x1FAF8),
    (0x2B739, 0x2B739), (0x31350, 0x323AF),  # 15.0: 4489 points
    (0x2FFC, 0x2FFF), (0x31EF, 0x31EF), (0x2EBF0, 0x2EE5D),  # 15.1: 627 points
]


def main():
    assert unicodedata.unidata_version == "14.0.0" and unicodedata2.unidata_version == "16.0.0"
    age = {}
    for first, last in NEW_IN_15:
        for point in range(first, last + 1):
            age[point] = 1
    rows, counts = [], {0: 0, 1: 0, 2: 0}
    for point in range(0x110000):
        category = unicodedata2.category(chr(point))
        new = 0
        if category != "Cn" and unicodedata.category(chr(point)) == "Cn":
            new = age.get(point, 2)
            counts[new] += 1
        if not rows or rows[-1][1:] != (category, new):
            rows.append((point, category, new))
    assert counts[1] == 4489 + 627 and counts[2] == 5185, counts
    cells = [f"{{0x{point:X}, {category}, {new}}}," for point, category, new in rows]
    lines, line = [], ""
    for cell in cells:
        if len(line) + len(cell) + 1 > 100:
            lines.append(line)
            line = ""
        line += (" " if line else "") + cell
    lines.append(line)
    head = "// Written by tools/make_unicode_categories.py from the Unicode Character Database, version 16.0.\n"
    open(sys.argv[1], "w").write(head + "// clang-format off\n" + "\n".join(lines) + "\n// clang-format on\n")


if __name__ == "__main__":
    main()
