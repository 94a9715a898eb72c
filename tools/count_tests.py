#!/usr/bin/env python3
"""Prints 'N passed, N failed' for the ctest runs of build folders, from their last logs.

    count_tests.py BUILD…
"""
import re
import sys
from pathlib import Path

passed = failed = 0
for folder in sys.argv[1:]:
    for line in (Path(folder) / "Testing/Temporary/LastTest.log").read_text(errors="replace").splitlines():
        passed += line == "Test Passed."
        failed += bool(re.match(r"Test Failed\.|Test timeout|Test Failed", line))
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed or passed == 0 else 0)
