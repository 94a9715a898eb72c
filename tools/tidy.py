#!/usr/bin/env python3
"""Holds the tree against its own rules: includes point down, no two files share a name, none is forgotten, only cli prints.

    tidy.py ROOT
"""
import re
import sys
from pathlib import Path

# Each folder of src and the folders that it may include. ARCHITECTURE.md says the same in words.
MAY_INCLUDE = {
    "core": set(),
    "quant": {"core"},
    "formats": {"core"},
    "trace": {"core", "quant", "formats"},
    "tokenizer": {"core", "formats"},
    "chat": {"core", "formats"},
    "model": {"core", "quant", "formats", "tokenizer", "model/architectures"},
    "model/architectures": {"core", "formats", "model"},
    "backends": {"core", "tokenizer", "model", "trace"},
    "backends/referee": {"core", "quant", "tokenizer", "model", "trace", "backends"},
    "backends/cpu": {"core", "quant", "tokenizer", "model", "trace", "backends", "backends/referee"},
    "dump": {"core", "quant", "formats"},
    "names": {"core", "quant", "formats", "model", "trace", "dump"},
    "generate": {"core", "tokenizer", "model", "trace", "backends"},
    "score": {"core", "formats", "tokenizer", "model", "trace", "backends"},
    "record": {"core", "tokenizer", "formats", "model", "trace", "backends"},
    "outcome": {"core", "tokenizer", "model", "backends", "record", "score"},
    "faults": {"core", "quant", "tokenizer", "model", "trace"},
    "replay": {"core", "quant", "tokenizer", "model", "trace", "faults", "backends/referee"},
    "parity": {"core", "quant", "formats", "tokenizer", "model", "trace", "outcome", "replay"},
    "self_test": {"core", "quant", "formats", "tokenizer", "model", "trace", "backends", "backends/referee", "record", "faults", "replay", "parity"},
    "inspect": {"core", "quant", "formats", "tokenizer", "model"},
    "report": {"core", "formats", "tokenizer", "model", "trace", "outcome", "parity", "inspect"},
    "cli": {"core", "quant", "formats", "tokenizer", "chat", "model", "trace", "dump", "names", "generate", "score", "faults", "backends", "backends/cpu", "backends/referee", "record", "outcome", "replay", "parity", "self_test", "inspect", "report"},
}
# A level file is compiled for a newer processor: an inline function of the standard library must not come from there.
LEVEL_INCLUDES = re.compile(r"immintrin\.h|std(def|int)\.h|math\.h|string\.h|float\.h|quant/blocks\.h|backends/cpu/kernels[a-z0-9_]*\.h")
PRINTS = re.compile(r"\b(fmt::print|std::cout|std::cerr|printf|getenv|std::exit)\b")


def folder_of(path, source):
    return str(path.parent.relative_to(source))


def check_file(path, source, errors):
    folder = folder_of(path, source)
    text = path.read_text()
    is_test = path.stem.endswith("_test")
    if not text.startswith("// SPDX-License-Identifier: Apache-2.0") and path.suffix != ".inc":
        errors.append(f"{path}: the first line must be the SPDX line")
    for number, line in enumerate(text.splitlines(), 1):
        include = re.match(r'#include [<"]([^>"]+)[>"]', line)
        if include and "/" in include[1] and (source / include[1]).exists():
            target = folder_of(source / include[1], source)
            if target != folder and target not in MAY_INCLUDE[folder] and not is_test:
                errors.append(f"{path}:{number}: {folder} may not include {target}")
        if include and re.search(r"_avx2\.cpp$", path.name) and not LEVEL_INCLUDES.search(include[1]):
            errors.append(f"{path}:{number}: a level file may not include {include[1]}")
        if folder != "cli" and not is_test and path.name != "check.h" and PRINTS.search(line.split("//")[0]):
            errors.append(f"{path}:{number}: only cli prints, reads the environment and exits")
        if re.search(r"\bTODO\b(?!\(#\d+\))", line):
            errors.append(f"{path}:{number}: TODO without an issue number")


def check_document(path, root, errors):
    """Files that a document names are there. A folder of src may begin a name; <name> and * stand for anything."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        for name in re.findall(r"`([\w.-]+/[\w./<>*-]*)`", line):
            first = name.split("/")[0]
            pattern = re.sub(r"<[^>]*>", "*", name).rstrip("/")
            for base in (root, root / "src"):
                if (base / first).is_dir() and any(base.glob(pattern)):
                    break
            else:
                if (root / first).is_dir() or (root / "src" / first).is_dir():
                    errors.append(f"{path}:{number}: there is no {name}")


def main():
    root = Path(sys.argv[1])
    source = root / "src"
    errors = []
    files = sorted(p for p in source.rglob("*") if p.suffix in {".cpp", ".h", ".inc"})
    names = {}
    cmake = (root / "CMakeLists.txt").read_text()
    for path in files:
        check_file(path, source, errors)
        # A command has its file in cli, whatever else has its name.
        if path.name in names and "cli" not in (path.parent.name, names[path.name].parent.name):
            errors.append(f"{path}: {names[path.name]} has the same name")
        names[path.name] = path
        if path.suffix == ".cpp" and path.name not in cmake:
            errors.append(f"{path}: not in CMakeLists.txt")
    for path in [*root.glob("*.md"), *(root / "docs").rglob("*.md")]:
        check_document(path, root, errors)
    print("\n".join(errors) if errors else f"tidy: {len(files)} files")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
