#!/usr/bin/env python3
"""Runs the golden tests of the command line: tests/cli/*.test.

    golden.py PLUMB FOLDER             run them
    golden.py --update PLUMB FOLDER    write what the program prints into them; then read the diff

A test is a text: `# comment`, `$ command` (run by bash in an empty folder, `plumb` is the program and $MODELS the folder
of test models), then what it prints: stdout as it is, stderr behind `! `, and `? N` where the exit code is not 0.
A line `…` in the expected output stands for any lines. Figures that change from run to run do not belong here.
"""
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path


def parse(text):
    """The test as a list of [comment and command lines, expected lines]."""
    blocks = []
    for line in text.splitlines():
        if line.startswith("$ "):
            blocks.append([[line], []])
        elif blocks and (line.startswith("  ") or line.startswith("! ") or line.startswith("? ") or line == "…" or not line.startswith("#")):
            if blocks[-1][1] or line:
                blocks[-1][1].append(line)
        else:
            blocks.append([[line], None])
    return blocks


def run(command, folder, environment):
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    lines += ["! " + line for line in done.stderr.decode("utf-8", "replace").splitlines()]
    if done.returncode != 0:
        lines.append(f"? {done.returncode}")
    return lines


def matches(expected, actual):
    """Whether the lines agree; a line … of the expected ones stands for any number of lines."""
    pattern = ""
    for line in expected:
        pattern += r"(?:.*\n)*?" if line == "…" else re.escape(line) + "\n"
    return re.fullmatch(pattern, "".join(line + "\n" for line in actual)) is not None


def main():
    update = "--update" in sys.argv
    program, folder = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    program = str(Path(program).resolve())
    models = str((Path(folder) / ".." / "models").resolve())
    passed = failed = 0
    for path in sorted(Path(folder).glob("*.test")):
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / "bin").mkdir()
            os.symlink(program, Path(place) / "bin" / "plumb")
            environment = dict(os.environ, PATH=f"{place}/bin:{os.environ['PATH']}", MODELS=models, LC_ALL="C.UTF-8", NO_COLOR="1")
            work = Path(place) / "work"
            work.mkdir()
            output = []
            for (line,), expected in parse(path.read_text()):
                output.append(line)
                if not line.startswith("$ "):
                    continue
                actual = run(line[2:], work, environment)
                while expected and not expected[-1]:
                    expected.pop()
                if matches(expected, actual):
                    passed += 1
                    output += expected
                elif update:
                    output += actual
                else:
                    failed += 1
                    print(f"{path}: {line}\n--- expected\n" + "\n".join(expected) + "\n--- found\n" + "\n".join(actual))
                output.append("")
            if update:
                path.write_text("\n".join(output).rstrip() + "\n")
    print(f"cli: {passed} passed, {failed} failed")
    return 1 if failed or passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
