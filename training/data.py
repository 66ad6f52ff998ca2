"""Data recipe: gathers documents of seven domains, leaves out what belongs to test sets, tokenises, writes shards.

    python3 data.py --corpus train.tar.zst --test-set FOLDER --tokenizer tokenizer.json OUT
                    [--debian FOLDER] [--npm FOLDER] [--limit-mb N] [--sources SOURCES.md]

Prose, documentation, wiki, structured text, logs and other languages come from the corpus archive; source code comes from
what is installed (crates in the cargo registry, Python, Perl, C headers) and from the downloaded archives of --debian
(`apt-get source --download-only ...`) and --npm (`npm pack ...`). Sources that are absent are passed over, and what was
really used is written to SOURCES.md with names, versions and licences.

A shard `OUT/<domain>.u16` is one stream of token ids (u16, little endian). Documents are cut into pieces of at most
256 KiB, the pieces of a domain are shuffled (SEED), and START stands before each. A piece whose hash falls into 1 of 64
goes to `OUT/<domain>.held.u16` instead: text that training never sees, for the figures printed while it runs.
"""
import argparse
import glob
import hashlib
import json
import os
import random
import re
import subprocess
import sysconfig
import tarfile

import numpy as np
import zstandard

SEED = 20
START = 188          # token of the byte 0: stands before every document, chunk and lane
PIECE = 256 << 10    # bytes
HELD_OUT = 64        # one piece of so many is kept out of training
DOMAINS = ("books", "docs", "wiki", "struct", "logs", "other", "code")

CODE = (".rs", ".c", ".h", ".cc", ".cpp", ".hpp", ".hh", ".inc", ".S", ".s", ".py", ".pyi", ".go", ".java", ".js", ".mjs", ".cjs",
        ".ts", ".jsx", ".tsx", ".css", ".html", ".pl", ".pm", ".t", ".tcl", ".test", ".rb", ".lua", ".sh", ".awk", ".sql", ".vim",
        ".y", ".l", ".m4", ".ac", ".am", ".in", ".cmake", ".f", ".f90", ".el", ".lisp", ".pas", ".php")

# Test sets of this project and of the field, and what is generated rather than written.
FORBIDDEN = re.compile(r"canterbury|calgary|silesia|enwik|alice29|lcet10|plrabn12|asyoulik|kennedy\.xls|loghub|vega|altair|seaborn|"
                       r"simdjson|linux-raw-sys|/linux/|/asm(-generic)?/|linux-libc-dev", re.I)
GENERATED = re.compile(r"windows-sys|windows_sys|winapi-|r-efi|bindgen|\.min\.js|/generated/|amalgamation|unicode_tables|/tables?\.(rs|py)$|"
                       r"configure$|/po/|_pb2\.py|/nvidia/|/cuda/|typeshed", re.I)


def corpus(archive):
    """The domain's documents from the corpus archive: tar, zstd, one file per kind, documents parted by NUL."""
    documents, table = {d: [] for d in DOMAINS}, b""
    unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    with open(archive, "rb") as packed, unpacker.stream_reader(packed) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            if not member.isfile():
                continue
            data = tar.extractfile(member).read()
            folder, name = member.name.split("/")[-2:]
            if name == "SOURCES.tsv":
                table = data
                continue
            if folder == "prose":
                folder = "docs" if name in ("docs.txt", "text.txt") else "books"
            documents[folder] += [(f"corpus/{folder}/{name}", d) for d in data.split(b"\0") if d]
    return documents, [line.split("\t") for line in table.decode().splitlines()[1:]]


class Code:
    """Collects source code, some bytes of each source at most, and notes where it came from."""

    def __init__(self, chooser):
        self.chooser, self.documents, self.notes = chooser, [], []

    def add(self, name, version, licence, files, limit):
        """files: (path, function that gives its bytes); taken in random order until limit bytes."""
        files = [f for f in files if f[0].endswith(CODE) and not FORBIDDEN.search(f[0]) and not GENERATED.search(f[0])]
        files.sort(key=lambda f: f[0])
        self.chooser.shuffle(files)
        taken = 0
        for path, read in files:
            data = read()
            if len(data) < 64 or len(data) > 1 << 20 or b"\0" in data:
                continue
            self.documents.append((f"{name}/{path}", data))
            taken += len(data)
            if taken >= limit:
                break
        if taken:
            self.notes.append((name, version, "code", taken, licence))

    def add_folder(self, name, version, licence, folder, limit):
        paths = [os.path.join(r, f) for r, _, fs in os.walk(folder) for f in fs]
        self.add(name, version, licence, [(p, reader(p)) for p in paths if os.path.isfile(p)], limit)

    def add_archive(self, name, version, licence, archive, limit):
        with tarfile.open(archive) as tar:  # in the archive's order: going back would unpack it again from its start
            members = [(m.name, tar.extractfile(m).read()) for m in tar if m.isfile() and m.name.endswith(CODE)]
        self.add(name, version, licence, [(path, lambda data=data: data) for path, data in members], limit)


def reader(path):
    return lambda: open(path, "rb").read()


def debian_licence(text):
    """The licence names of a machine-readable Debian copyright file."""
    names = re.findall(r"^License: *([^\s,][^\n]*)", text, re.M)
    return ", ".join(sorted({n.strip() for n in names})[:6]) or "see its Debian copyright file"


def installed_code(code):
    for crate in sorted(glob.glob(os.path.expanduser("~/.cargo/registry/src/*/*"))):
        name, version = re.match(r"(.*?)-(\d+\..*)$", os.path.basename(crate)).groups()
        licence = re.search(r'^license = "([^"]*)"', open(f"{crate}/Cargo.toml").read(), re.M)
        if not FORBIDDEN.search(f"{name}-") and not GENERATED.search(f"{name}-"):
            code.add_folder(f"crate {name}", version, licence[1] if licence else "see crate", crate, 1_500_000)
    version = sysconfig.get_python_version()
    library = sysconfig.get_path("stdlib")
    code.add("Python standard library", version, "PSF-2.0", [(p, reader(p)) for p in glob.glob(f"{library}/**/*.py", recursive=True)
                                                              if "site-packages" not in p], 15_000_000)
    for meta in sorted(glob.glob(sysconfig.get_path("purelib") + "/*.dist-info/METADATA")):
        text = open(meta, errors="replace").read()
        field = lambda f: (re.search(rf"^{f}: (.+)$", text, re.M) or [None, ""])[1]
        tops = os.path.join(os.path.dirname(meta), "top_level.txt")
        tops = open(tops).read().split() if os.path.exists(tops) else [field("Name").lower().replace("-", "_")]
        licence = field("License-Expression") or field("License") or ", ".join(re.findall(r"^Classifier: License ::.*:: (.+)$", text, re.M))
        for top in tops:
            folder = os.path.join(os.path.dirname(os.path.dirname(meta)), top)
            if os.path.isdir(folder) and not FORBIDDEN.search(top + "/") and top not in ("nvidia", "cuda", "triton"):
                code.add_folder(f"pip {field('Name')}", field("Version"), licence[:60], folder, 2_000_000)
    if os.path.isdir("/var/lib/dpkg/info"):
        versions = dict(line.split("\t") for line in subprocess.run(["dpkg-query", "-W", "-f", "${Package}\t${Version}\n"],
                                                                    capture_output=True, text=True).stdout.splitlines())
        for listing in sorted(glob.glob("/var/lib/dpkg/info/*.list")):
            package = os.path.basename(listing)[:-5].split(":")[0]
            paths = [p for p in open(listing).read().split("\n")
                     if p.startswith(("/usr/include/", "/usr/share/perl", "/usr/lib/x86_64-linux-gnu/perl")) and os.path.isfile(p)]
            copyright = f"/usr/share/doc/{package}/copyright"
            if paths and package != "linux-libc-dev":
                licence = debian_licence(open(copyright, errors="replace").read()) if os.path.exists(copyright) else "?"
                code.add(f"Debian {package}", versions.get(package, "?"), licence, [(p, reader(p)) for p in paths], 1_500_000)
    for package in sorted(glob.glob("/usr/lib/node_modules/*/package.json")):
        about = json.load(open(package))
        code.add_folder(f"npm {about['name']}", about["version"], about.get("license", "?"), os.path.dirname(package), 3_000_000)


def downloaded_code(code, debian, npm):
    for dsc in sorted(glob.glob(f"{debian}/*.dsc")) if debian else []:
        stem = os.path.basename(dsc)[:-4]
        name, version = stem.split("_", 1)
        upstream = version.rsplit("-", 1)[0]
        archive = [a for a in glob.glob(f"{debian}/{name}_{upstream}.orig.tar.*") if not a.endswith(".asc")]
        packaging = glob.glob(f"{debian}/{stem}.debian.tar.*")
        if not archive or not packaging:
            continue
        with tarfile.open(packaging[0]) as tar:
            licence = debian_licence(tar.extractfile("debian/copyright").read().decode(errors="replace"))
        code.add_archive(f"Debian source {name}", version, licence, archive[0], 15_000_000 if "golang" in name else 6_000_000)
    for archive in sorted(glob.glob(f"{npm}/*.tgz")) if npm else []:
        with tarfile.open(archive) as tar:
            about = json.load(tar.extractfile(next(m for m in tar if m.name.count("/") == 1 and m.name.endswith("/package.json"))))
        code.add_archive(f"npm {about['name']}", about["version"], about.get("license", "?"), archive, 2_000_000)


class TestLines:
    """Long lines of the open test set: a document that shares many of them is not trained on."""

    def __init__(self, folder):
        self.lines = set()
        for path in glob.glob(f"{folder}/**/*", recursive=True) if folder else []:
            if os.path.isfile(path):
                self.lines |= self.keys(open(path, "rb").read())

    def keys(self, data):
        return {hash(line) for line in re.split(rb"[\r\n\0]+", data) if len(line) >= 48}

    def holds(self, data):
        keys = self.keys(data)
        shared = len(keys & self.lines)
        return shared >= 8 and shared * 5 > len(keys)


class Encoder:
    """Bytes to token ids without loss: what is not UTF-8 becomes the tokens of its bytes."""

    def __init__(self, path):
        from tokenizers import Tokenizer, pre_tokenizers
        self.tokenizer = Tokenizer.from_file(path)
        visible = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b]
        hidden = [b for b in range(256) if b not in visible]
        letters = {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}
        assert set(letters.values()) == set(pre_tokenizers.ByteLevel.alphabet())
        self.byte_token = {b: self.tokenizer.token_to_id(c) for b, c in letters.items()}
        assert self.byte_token[0] == START

    def pieces(self, pieces):
        parts, owner = [], []
        for i, data in enumerate(pieces):
            text = data.decode("utf-8", "surrogateescape")
            for part in re.split("([\udc80-\udcff]+)", text):
                if part:
                    parts.append(part)
                    owner.append(i)
        valid = [p for p in parts if not "\udc80" <= p[0] <= "\udcff"]
        encoded = iter(self.tokenizer.encode_batch_fast(valid))
        out = [[np.array([START], np.uint16)] for _ in pieces]
        for i, p in zip(owner, parts):
            ids = [self.byte_token[ord(c) - 0xDC00] for c in p] if "\udc80" <= p[0] <= "\udcff" else next(encoded).ids
            out[i].append(np.array(ids, np.uint16))
        return [np.concatenate(o) for o in out]


def cut(data):
    """Pieces of at most PIECE bytes, at the end of a line where there is one."""
    at = 0
    while len(data) - at > PIECE:
        end = data.rfind(b"\n", at + PIECE // 2, at + PIECE) + 1 or at + PIECE
        yield data[at:end]
        at = end
    yield data[at:]


def held_out(piece):
    return hashlib.blake2b(piece).digest()[0] % HELD_OUT == 0


def write_shards(domain, documents, encoder, chooser, limit, out):
    pieces = [p for d in documents for p in cut(d)]
    chooser.shuffle(pieces)
    files = {held: open(f"{out}/{domain}{'.held' if held else ''}.u16.new", "wb") for held in (False, True)}
    size, tokens = 0, 0
    for i in range(0, len(pieces), 256):
        batch = pieces[i:i + 256]
        for p, ids in zip(batch, encoder.pieces(batch)):
            files[held_out(p)].write(ids.tobytes())
            size, tokens = size + len(p), tokens + len(ids)
        if size >= limit:
            break
    for held, f in files.items():
        f.close()
        os.replace(f.name, f.name[:-4])
    print(f"{domain}: {size / 1e6:.1f} MB in {len(pieces)} pieces, {tokens / 1e6:.1f}M tokens, {size / tokens:.2f} bytes a token", flush=True)
    return size, tokens


def gather(corpus_archive, test_set, debian, npm, chooser):
    """Documents by domain without those of test sets, how many were left out of each, and (name, version, domain, bytes, licence) of
    every source."""
    test = TestLines(test_set)
    documents, notes = corpus(corpus_archive)
    code = Code(chooser)
    installed_code(code)
    downloaded_code(code, debian, npm)
    documents["code"] = code.documents
    kept = {d: [data for name, data in documents[d] if not FORBIDDEN.search(name) and not test.holds(data)] for d in DOMAINS}
    return kept, {d: len(documents[d]) - len(kept[d]) for d in DOMAINS}, notes + [[str(c) for c in n] for n in code.notes]


def write_sources(path, lines, notes):
    with open(path, "w") as f:
        f.write("# Sources of the training text\n\nWritten by `data.py`. \"Left out\" counts documents that share lines with a test set.\n\n"
                f"Seed {SEED}.\n\n| domain | bytes tokenised | tokens | documents left out |\n|---|---|---|---|\n" + "\n".join(lines)
                + "\n\n| source | version | domain | bytes | licence |\n|---|---|---|---|---|\n")
        for row in notes:
            f.write("| " + " | ".join(c.replace("|", "/").replace("\n", " ") for c in row) + " |\n")


def main():
    a = argparse.ArgumentParser()
    a.add_argument("out")
    a.add_argument("--corpus", required=True)
    a.add_argument("--test-set", help="folder of texts that must not be trained on")
    a.add_argument("--tokenizer", required=True)
    a.add_argument("--debian")
    a.add_argument("--npm")
    a.add_argument("--limit-mb", type=float, default=1e9, help="bytes of each domain at most")
    a.add_argument("--sources", help="where to write SOURCES.md")
    a = a.parse_args()
    os.makedirs(a.out, exist_ok=True)
    chooser, encoder = random.Random(SEED), Encoder(a.tokenizer)
    documents, left_out, notes = gather(a.corpus, a.test_set, a.debian, a.npm, chooser)
    lines = []
    for domain in DOMAINS:
        if documents[domain]:
            size, tokens = write_shards(domain, documents[domain], encoder, chooser, a.limit_mb * 1e6, a.out)
            lines.append(f"| {domain} | {size:,} | {tokens:,} | {left_out[domain]} |")
    if a.sources:
        write_sources(a.sources, lines, notes)


if __name__ == "__main__":
    main()
