"""Packs the text of data.py small, in loads, for a machine without a network; and unpacks and tokenises them there.

    python3 pack.py pack OUT --corpus train.tar.zst [--test-set FOLDER] [--debian FOLDER] [--npm FOLDER]
                             [--loads 3] [--load-mib 40] [--sources SOURCES.md]
    python3 pack.py unpack LOAD... TOKENS --tokenizer tokenizer.json [--processes 16]

Every load, `OUT/load-N.tar`, is a fair sample on its own: a part of the shuffled pieces of every domain, in members
`<domain>/<number>.xz` of about BLOCK bytes of text, pieces parted by NUL (no text of data.py holds one). Domains give text in
proportion to WANTED, a domain that has less gives all of it, until the loads are full. `unpack` appends to the shards
that train.py reads; a load that is already in TOKENS (see its `loads.txt`) is passed over.
"""
import argparse
import concurrent.futures
import io
import lzma
import os
import random
import tarfile

import numpy as np

import data

BLOCK = 4 << 20
# Text of each domain for every byte of books: what training draws (train.py), as far as repeating it is worth less than reading more.
WANTED = dict(books=1.0, docs=0.5, wiki=0.6, struct=0.8, logs=0.35, other=0.5, code=1.2)


def blocks(pieces):
    """The shuffled pieces of a domain as byte strings of about BLOCK bytes."""
    held, size = [], 0
    for piece in pieces:
        held.append(piece)
        size += len(piece) + 1
        if size >= BLOCK:
            yield b"\0".join(held)
            held, size = [], 0
    if held:
        yield b"\0".join(held)


def squeeze(block):
    filters = [dict(id=lzma.FILTER_LZMA2, preset=9 | lzma.PRESET_EXTREME, dict_size=2 * BLOCK, lc=4, lp=0, pb=0)]
    return lzma.compress(block, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)


def pack(a):
    chooser = random.Random(data.SEED)
    documents, left_out, notes = data.gather(a.corpus, a.test_set, a.debian, a.npm, chooser)
    streams = {}
    for domain, texts in documents.items():
        pieces = [p for text in texts for p in data.cut(text.replace(b"\0", b" "))]
        chooser.shuffle(pieces)
        streams[domain] = blocks(pieces)
    os.makedirs(a.out, exist_ok=True)
    room, given, packed, taken = a.loads * (a.load_mib << 20), {d: 0 for d in streams}, {d: 0 for d in streams}, []
    with concurrent.futures.ProcessPoolExecutor(a.processes) as pool:
        while streams:
            turn = []  # a few blocks at a time, always of the domain that is furthest behind
            while streams and len(turn) < 4 * a.processes:
                domain = min(streams, key=lambda d: given[d] / WANTED[d])
                block = next(streams[domain], None)
                if block is None:
                    del streams[domain]
                    continue
                given[domain] += len(block)
                turn.append((domain, len(block), block))
            for (domain, size, _), squeezed in zip(turn, pool.map(squeeze, [block for _, _, block in turn])):
                room -= len(squeezed) + 1024
                if room >= 0:
                    taken.append((domain, squeezed))
                    packed[domain] += size
            print(f"{sum(packed.values()) / 1e6:.0f} MB of text, {max(0, room) / 2**20:.1f} MiB of room left", flush=True)
            if room < 0:
                break
    for n in range(a.loads):
        with tarfile.open(f"{a.out}/load-{n + 1}.tar", "w") as tar:
            for number, (domain, squeezed) in enumerate(taken[n::a.loads]):
                member = tarfile.TarInfo(f"{domain}/{number:04}.xz")
                member.size = len(squeezed)
                tar.addfile(member, io.BytesIO(squeezed))
        print(f"{a.out}/load-{n + 1}.tar: {os.path.getsize(f'{a.out}/load-{n + 1}.tar'):,} bytes")
    lines = [f"| {d} | {packed[d]:,} | | {left_out[d]} |" for d in packed]
    print("\n".join(lines))
    if a.sources:
        data.write_sources(a.sources, lines, notes)


encoder = None


def start_worker(tokenizer):
    global encoder
    os.environ["RAYON_NUM_THREADS"] = "1"
    encoder = data.Encoder(tokenizer)


def tokenise(job):
    """(domain, xz) -> (domain, bytes of text, tokens to train on, tokens held out), the tokens as bytes."""
    domain, squeezed = job
    text = lzma.decompress(squeezed)
    out = {False: [], True: []}
    pieces = text.split(b"\0")
    for piece, ids in zip(pieces, encoder.pieces(pieces)):
        out[data.held_out(piece)].append(ids)
    joined = [np.concatenate(out[held]).astype("<u2").tobytes() if out[held] else b"" for held in (False, True)]
    return domain, len(text), *joined


def unpack(a):
    os.makedirs(a.tokens, exist_ok=True)
    record = f"{a.tokens}/loads.txt"
    done = open(record).read().split("\n") if os.path.exists(record) else []
    for load in a.loads:
        name = os.path.basename(load)
        if name in done:
            print(f"{name} is there already")
            continue
        with tarfile.open(load) as tar:
            jobs = [(member.name.split("/")[0], tar.extractfile(member).read()) for member in tar]
        size = tokens = 0
        parts = {}
        with concurrent.futures.ProcessPoolExecutor(a.processes, initializer=start_worker, initargs=(a.tokenizer,)) as pool:
            for domain, length, train, held in pool.map(tokenise, jobs):
                size, tokens = size + length, tokens + len(train) // 2
                parts.setdefault(f"{domain}.u16", []).append(train)
                parts.setdefault(f"{domain}.held.u16", []).append(held)
        for shard, pieces in parts.items():
            # A new file, not a longer one: a run may have the old one mapped.
            path, pieces = f"{a.tokens}/{shard}", b"".join(pieces)
            old = open(path, "rb").read() if os.path.exists(path) else b""
            with open(path + ".new", "wb") as f:
                f.write(old + pieces)
            os.replace(path + ".new", path)
        with open(record, "a") as f:
            f.write(name + "\n")
        print(f"{name}: {size / 1e6:.1f} MB of text, {tokens / 1e6:.1f}M tokens to train on", flush=True)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = a.add_subparsers(required=True)
    p = commands.add_parser("pack")
    p.set_defaults(run=pack)
    p.add_argument("out")
    p.add_argument("--corpus", required=True)
    p.add_argument("--test-set", help="folder of texts that must not be trained on")
    p.add_argument("--debian")
    p.add_argument("--npm")
    p.add_argument("--loads", type=int, default=3)
    p.add_argument("--load-mib", type=int, default=40)
    p.add_argument("--sources", help="where to write SOURCES.md")
    p.add_argument("--processes", type=int, default=os.cpu_count())
    u = commands.add_parser("unpack")
    u.set_defaults(run=unpack)
    u.add_argument("loads", nargs="+")
    u.add_argument("tokens")
    u.add_argument("--tokenizer", required=True)
    u.add_argument("--processes", type=int, default=os.cpu_count())
    a = a.parse_args()
    a.run(a)


if __name__ == "__main__":
    main()
