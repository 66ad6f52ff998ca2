"""Chunks to train the mixer's start on: pieces of 64 KiB of all kinds of data, chosen by SEED.

    python3 pieces.py CORPUS OUT

CORPUS is the unpacked corpus (folders `prose`, `wiki`, `struct`, `logs`, `other`); source code and executables are those
of the machine. Then

    cargo run --release --example mixer_start -- MODEL START OUT/*
"""
import glob
import os
import random
import sys

SEED = 7
PIECE = 64 << 10
# How many pieces of each kind.
TEXT = {
    "prose/books": 16, "prose/docs": 16, "prose/cnxml": 8, "prose/qa": 4, "prose/science-xml": 4, "prose/text": 4,
    "prose/encyclopedia": 3, "wiki/articles": 4, "wiki/bips": 3, "wiki/openttd": 3, "wiki/wikitext-derived": 6,
    "wiki/xml-derived": 6, "wiki/xml": 3, "struct/changelog": 3, "struct/csv": 8, "struct/json": 8, "struct/latex": 4,
    "struct/man": 3, "struct/po": 3, "struct/svg": 3, "struct/xml": 5, "struct/yaml": 5, "struct/toml": 3, "struct/lock": 2,
    "logs/elastic": 5, "logs/local": 3, "logs/log": 4, "logs/plaso": 4, "logs/security-json": 5, "logs/security": 4,
    "logs/fail2ban": 1, "other/de": 3, "other/fr-xml": 4, "other/ru": 4, "other/ja-xml": 3, "other/zh-json": 3,
    "other/multi": 4, "other/tldr": 3, "other/wiki-xml": 4, "other/es": 3, "other/man": 3,
}
CODE = {
    "rust": "~/.cargo/registry/src/*/*/src/**/*.rs",
    "python": "/usr/lib/python3*/**/*.py",
    "c": "/usr/include/**/*.h",
}
CODE_PIECES = 12
BINARIES = ("/usr/bin/*", "/usr/lib/*-linux-gnu/*.so*", "/usr/lib/*-linux-gnu/gconv/*")
BINARY_PIECES = 6


def files(pattern, least):
    found = glob.glob(os.path.expanduser(pattern), recursive=True)
    return sorted(f for f in found if os.path.isfile(f) and os.path.getsize(f) >= least)


def main():
    corpus, out = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    choose = random.Random(SEED)

    def put(name, number, piece):
        with open(f"{out}/{name.replace('/', '-')}-{number}", "wb") as file:
            file.write(piece)

    for kind, count in TEXT.items():
        with open(f"{corpus}/{kind}.txt", "rb") as file:
            text = file.read()
        places = range(max(1, len(text) // PIECE))
        for number, place in enumerate(choose.sample(places, min(len(places), count))):
            put(kind, number, text[place * PIECE:(place + 1) * PIECE])
    for kind, pattern in CODE.items():
        sources = files(pattern, 2000)
        choose.shuffle(sources)
        text = b""
        for source in sources:
            if len(text) >= CODE_PIECES * PIECE:
                break
            with open(source, "rb") as file:
                text += file.read(PIECE)
        for number in range(min(CODE_PIECES, len(text) // PIECE)):
            put(f"code/{kind}", number, text[number * PIECE:(number + 1) * PIECE])
    binaries = [f for pattern in BINARIES for f in files(pattern, 200_000)]
    choose.shuffle(binaries)
    for number, path in enumerate(binaries[:BINARY_PIECES]):
        with open(path, "rb") as file:
            file.seek(choose.randrange(os.path.getsize(path) - PIECE))
            put("binary", number, file.read(PIECE))


if __name__ == "__main__":
    main()
