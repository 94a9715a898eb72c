#!/usr/bin/env python3
"""Holds plumb's tokenizers against llama.cpp's and the tokenizers library's ids.

    check_tokenizers.py PLUMB vocab FOLDER          ggml-vocab-*.gguf with their .inp and .out files (llama.cpp's models/)
    check_tokenizers.py PLUMB golden MODEL JSON     a model against a tokenize.json with llama.cpp's ids
    check_tokenizers.py PLUMB folder FOLDER...      Hugging Face folders: tokenizer.json against the library, and
                                                    tokenizer.json or tokenizer.model against the folder's model-f32.gguf
    check_tokenizers.py PLUMB random FOLDER [N]     N (100,000) random strings in mixed scripts against the library, on
                                                    tokenizer.json files made from the vocabularies llama-bpe, qwen2,
                                                    gpt-2 and llama-spm of FOLDER; the text must come back exactly

Needs the Python packages gguf and tokenizers. Not part of the tests that run on every change.
"""
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

NOT_SUPPORTED = ("bert", "nomic")
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def plumb_lines(plumb, model, texts, *options):
    """The answers of one run for many texts."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(text) + "\n" for text in texts)
        file.flush()
        command = [plumb, "tokenize", str(model), "--file", file.name, "--lines", *options]
        done = subprocess.run(command, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode('utf-8', 'replace')}")
    return [json.loads(line) for line in done.stdout.decode("utf-8", "replace").split("\n") if line]


def plumb_ids(plumb, model, data, *options):
    done = subprocess.run([plumb, "tokenize", str(model), "--file", "/dev/stdin", "--ids", *options], input=data, capture_output=True)
    if done.returncode != 0:
        return done.stderr.decode("utf-8", "replace").strip()
    text = done.stdout.decode().strip()
    return [int(i) for i in text.split(",")] if text else []


def check_vocab(plumb, folder):
    failed = 0
    for path in sorted(Path(folder).glob("ggml-vocab-*.gguf")):
        inputs, outputs = path.with_suffix(".gguf.inp"), path.with_suffix(".gguf.out")
        if not inputs.exists() or any(name in path.name for name in NOT_SUPPORTED):
            continue
        texts = inputs.read_bytes().decode().split("\n__ggml_vocab_test__\n")
        wanted = [[int(i) for i in line.split()] for line in outputs.read_text().split("\n")]
        found = plumb_lines(plumb, path, texts, "--no-special", "--no-parse-special")
        bad = [(t, f["ids"], w) for t, f, w in zip(texts, found, wanted) if f["ids"] != w]
        for text, ids, want in bad[:2]:
            print(f"  {text!r}\n    plumb     {ids}\n    llama.cpp {want}")
        print(f"{path.name}: {len(texts) - len(bad)} of {len(texts)} texts")
        failed += len(bad)
    return failed


MODES = {"ids": ["--no-special", "--no-parse-special"], "ids_parse_special": ["--no-special"], "ids_add_bos": ["--no-parse-special"],
         "ids_add_bos_parse_special": []}


def check_golden(plumb, model, path):
    """Texts that are UTF-8 in one run for each mode, the others in a run each."""
    failed = count = 0

    def expect(case, what, found, wanted):
        nonlocal failed, count
        count += 1
        if found != wanted:
            failed += 1
            print(f"  {case['name']} {what}\n    plumb     {found}\n    llama.cpp {wanted}")

    cases = json.loads(Path(path).read_text())["strings"]
    for key, options in MODES.items():
        valid = [c for c in cases if c.get("text") is not None and isinstance(c.get(key), list)]
        for case, answer in zip(valid, plumb_lines(plumb, model, [c["text"] for c in valid], *options)):
            expect(case, key, answer["ids"], case[key])
            if key == "ids" and case.get("round_trip"):
                expect(case, "back", answer["text"], case["text"])
        for case in cases:
            if case.get("text") is not None or not isinstance(case.get(key), list):
                continue
            expect(case, key, plumb_ids(plumb, model, bytes.fromhex(case["hex"]), *options), case[key])
            if key == "ids":
                done = subprocess.run([plumb, "tokenize", str(model), "--decode", ",".join(map(str, case[key]))], capture_output=True)
                expect(case, "back", done.stdout[:-1].hex(), case["back_hex"])
    print(f"{path}: {count - failed} of {count}")
    return failed


def random_texts(count, alphabet=None):
    """Mixed scripts; the same texts every time."""
    rng = random.Random(1)
    parts = [
        lambda: "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 9))),
        lambda: rng.choice(["The", "hello", "World", "it's", "I'LL", "don't", "we've", "x = y;", "camelCaseHTTPServer", "ÉCOLE", "naïve"]),
        lambda: "".join(chr(rng.randint(0x410, 0x44F)) for _ in range(rng.randint(1, 8))),
        lambda: "".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(rng.randint(1, 5))),
        lambda: "".join(chr(rng.randint(0x620, 0x64A)) for _ in range(rng.randint(1, 6))),
        lambda: "".join(chr(rng.randint(0x900, 0x97F)) for _ in range(rng.randint(1, 6))),
        lambda: rng.choice(["😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🦙", "e\u0301", "a\u0308\u0323", "ſ", "'ſ", "ﬁ", "½", "²", "Ⅷ", "٣٤٥", "1️⃣"]),
        lambda: str(rng.randint(0, 10 ** rng.randint(1, 12))),
        lambda: rng.choice([" ", "  ", "   ", "\n", "\r\n", "\n\n", "\t", " \n ", "\u00a0", "\u3000", "\u2003", "\u2028", " " * rng.randint(1, 20)]),
        lambda: rng.choice([".", ",", "!?", "...", "—", "«»", "(", ")]", "#include", "/*", "//\n", "$€", "'", "''", "\"", "_", "@#%", "。", "、"]),
        lambda: chr(rng.choice([0, 1, 7, 8, 0x1B, 0x1C, 0x7F, 0x85, 0x200B, 0x200D, 0xFEFF, 0xFFFD, 0x180E, 0xE000])),
        lambda: chr(rng.choice([rng.randint(0x20, 0x2FF), rng.randint(0x300, 0xD7FF), rng.randint(0xE000, 0xFFFD), rng.randint(0x10000, 0x1FFFF)])),
    ]
    if alphabet:
        return ["".join(rng.choice(alphabet) for _ in range(rng.randint(0, 40))) for _ in range(count)]
    return ["".join(rng.choice(parts)() + rng.choice(["", "", " "]) for _ in range(rng.randint(0, 12))) for _ in range(count)]


def compare_lists(name, texts, found, wanted, exact):
    failed = 0
    for text, mine, ids in zip(texts, found, wanted):
        if mine["ids"] != ids or (exact and mine["text"] != text):
            failed += 1
            if failed <= 3:
                print(f"  {text!r}\n    plumb   {mine['ids']} -> {mine['text']!r}\n    library {ids}")
    print(f"{name}: {len(texts) - failed} of {len(texts)}{', each back to the same text' if exact else ''}")
    return failed


def check_folders(plumb, folders):
    import tokenizers

    failed = 0
    letters = "abcdefghijklmnopqrstuvwxyz THE.,!' \n"
    for folder in map(Path, folders):
        texts = random_texts(2000, letters)
        if (folder / "tokenizer.json").exists():
            library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            # Where the library drops a character without a token, plumb says so: such texts are left out.
            texts = [t for t in texts if library.decode(library.encode(t).ids, skip_special_tokens=False) == t]
            wanted = [library.encode(t).ids for t in texts]
            failed += compare_lists(f"{folder.name}: tokenizer.json, library", texts, plumb_lines(plumb, folder, texts), wanted, True)
        if (folder / "model-f32.gguf").exists():
            try:
                gguf = plumb_lines(plumb, folder / "model-f32.gguf", texts)
            except RuntimeError as error:  # a text with a character that has no token
                small = [t for t in texts[:200] if not isinstance(plumb_ids(plumb, folder / "model-f32.gguf", t.encode()), str)]
                texts, gguf = small, plumb_lines(plumb, folder / "model-f32.gguf", small) if small else []
                print(f"  {folder.name}: {len(small)} of 200 texts have tokens for all characters ({str(error)[-60:].strip()})")
            mine = plumb_lines(plumb, folder, texts) if texts else []
            failed += compare_lists(f"{folder.name}: folder, GGUF", texts, mine, [g["ids"] for g in gguf], False)
    return failed


def make_tokenizer_json(path, kind):
    """tokenizer.json with the vocabulary of a GGUF, as the model's publisher writes it."""
    import gguf

    fields = gguf.GGUFReader(path).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    tokens, types = get("tokens"), get("token_type")
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": types[i] in (2, 3)}
             for i, t in enumerate(tokens) if types[i] in (2, 3, 4)]
    special = {a["id"] for a in added}
    out = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "post_processor": None}
    if kind == "llama-spm":
        scores = get("scores")
        vocabulary = {t: i for i, t in enumerate(tokens)}
        ranked = []
        for i, token in enumerate(tokens):
            if types[i] != 1:
                continue
            for cut in range(1, len(token)):
                left, right = token[:cut], token[cut:]
                if left in vocabulary and right in vocabulary:
                    ranked.append((-scores[i], vocabulary[left], vocabulary[right], left, right))
        ranked.sort(key=lambda m: m[:3])
        out["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
        out["pre_tokenizer"] = None
        out["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
        out["model"] = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                        "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": vocabulary, "merges": [[m[3], m[4]] for m in ranked]}
        out["post_processor"] = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                                 "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                                 "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
        return out
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": kind == "gpt-2"}
    out["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    if kind == "gpt-2":
        out["pre_tokenizer"] = byte_level
    else:
        pattern = WORDS % (r"\p{N}{1,3}" if kind == "llama-bpe" else r"\p{N}")
        out["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, byte_level]}
    if kind == "qwen2":
        out["normalizer"] = {"type": "NFC"}
    vocabulary = {t: i for i, t in enumerate(tokens) if i not in special}
    merges = [m.split(" ") for m in get("merges")]
    out["model"] = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                    "byte_fallback": False, "ignore_merges": kind == "llama-bpe", "vocab": vocabulary, "merges": merges}
    return out


def check_random(plumb, folder, count):
    import unicodedata

    import tokenizers

    failed = 0
    for kind in ("llama-bpe", "qwen2", "gpt-2", "llama-spm"):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "tokenizer.json"
            path.write_text(json.dumps(make_tokenizer_json(Path(folder) / f"ggml-vocab-{kind}.gguf", kind), ensure_ascii=False))
            library = tokenizers.Tokenizer.from_file(str(path))
            texts = random_texts(count)
            if kind == "qwen2":  # NFC comes back composed
                texts = [unicodedata.normalize("NFC", t) if i % 2 else t for i, t in enumerate(texts)]
            found = plumb_lines(plumb, path, texts)
            wanted = [e.ids for e in library.encode_batch(texts)]
            failed += compare_lists(f"{kind}: library", texts, found, wanted, False)
            if kind == "llama-spm":
                back = [(t, "<s>" + t) for t in texts]
            else:
                back = [(t, t) for t in texts]
            if kind == "qwen2":
                back = [(t, unicodedata.normalize("NFC", t)) for t in texts]
            lost = [(t, f["text"]) for (t, w), f in zip(back, found) if f["text"] != w]
            for text, got in lost[:3]:
                print(f"  comes back otherwise: {text!r} as {got!r}")
            print(f"{kind}: {len(texts) - len(lost)} of {len(texts)} texts come back as they were")
            failed += len(lost)
    return failed


def main():
    if len(sys.argv) < 4:
        print(__doc__)
        return 2
    plumb, what, *rest = sys.argv[1:]
    if what == "vocab":
        failed = check_vocab(plumb, rest[0])
    elif what == "golden":
        failed = check_golden(plumb, rest[0], rest[1])
    elif what == "folder":
        failed = check_folders(plumb, rest)
    elif what == "random":
        failed = check_random(plumb, rest[0], int(rest[1]) if len(rest) > 1 else 100_000)
    else:
        print(__doc__)
        return 2
    print(f"{failed} differences")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
