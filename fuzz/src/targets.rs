//! What reads bytes that somebody else may have written, one function each:
//! none of them may panic, hang, take memory without bound or return wrong
//! bytes, whatever it is given. An error is a fine answer.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use laconicfs::codec::{Codec, Kind};
use laconicfs::lm::model::Model;
use laconicfs::store::{
    Access, Batch, Class, MemoryStore, Properties, Row, Store, StoreDir, Superblock, Table,
    ValueRef,
};
use laconicfs::tier::{self, Tier};
use laconicfs::volume::{
    Caller, FileType, OpenFlags, Options, ROOT, RenameFlags, SetAttr, Volume, WriteFlags,
    XattrFlags,
};

/// A target, by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Target; 6] = [
    ("frame", frame),
    ("chunk", chunk),
    ("model", model),
    ("rows", rows),
    ("store", store),
    ("journal", journal),
];

/// The model of the golden files: it knows nothing, but it computes.
const MODEL: &[u8] = include_bytes!("../../tests/golden/model-v1.model");

fn golden_model() -> &'static Arc<Model> {
    static MODEL_: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL_.get_or_init(|| {
        let model = Model::parse(MODEL.to_vec()).unwrap();
        // Its mixer section is not one.
        let bytes = model.with_mixer_start(None).unwrap();
        Arc::new(Model::parse(bytes).unwrap())
    })
}

fn codec() -> &'static Codec {
    static CODEC: OnceLock<Codec> = OnceLock::new();
    CODEC.get_or_init(|| Codec::with_models(vec![golden_model().clone()]).unwrap())
}

/// Bytes of a chunk that goes through the model: longer ones take longer, and do
/// nothing new.
const LONGEST: usize = 1500;

/// A length, then a chunk frame of any codec.
pub fn frame(data: &[u8]) {
    let Some(([low, high], frame)) = data.split_first_chunk() else {
        return;
    };
    let len = usize::from(u16::from_le_bytes([*low, *high]));
    // With a model, long ones take long.
    let known = [Some(&Codec::default()), (len <= LONGEST).then(codec)];
    for codec in known.into_iter().flatten() {
        if let Ok(plain) = codec.decode(frame, len) {
            assert_eq!(plain.len(), len);
        }
    }
}

/// The codecs with statistics and model: a payload to decode, or bytes to
/// encode, perhaps damage, and decode. First what to do, then a length.
pub fn chunk(data: &[u8]) {
    let Some(([what, low, high], rest)) = data.split_first_chunk() else {
        return;
    };
    let kind = [Kind::Mix, Kind::Lm][usize::from(what & 1)];
    if what & 2 == 0 {
        let len = usize::from(u16::from_le_bytes([*low, *high])) % LONGEST;
        let mut frame = vec![kind as u8];
        frame.extend_from_slice(&golden_model().hash()[..4]);
        frame.extend_from_slice(rest);
        if let Ok(plain) = codec().decode(&frame, len) {
            assert_eq!(plain.len(), len);
        }
        return;
    }
    let plain = &rest[..rest.len().min(LONGEST)];
    let mut frame = codec().encode_as(Some(kind), plain).unwrap();
    assert_eq!(codec().decode(&frame, plain.len()).unwrap(), plain);
    if what & 4 != 0 {
        // Wrong bytes are for the hash of the chunk to find, not for us.
        let bit = usize::from(u16::from_le_bytes([*low, *high])) % (frame.len() * 8);
        frame[bit / 8] ^= 1 << (bit % 8);
        let _ = codec().decode(&frame, plain.len());
    }
}

/// A model file without its check, which is put right: whatever passes must
/// compute without overflow, and decode what it encodes.
pub fn model(data: &[u8]) {
    let mut file = data.to_vec();
    let _ = Model::parse(file.clone());
    file.extend_from_slice(blake3::hash(data).as_bytes());
    let Ok(model) = Model::parse(file) else {
        return;
    };
    let _ = (model.info(), model.tokenizer_json(), model.mixer_start());
    let Ok(codec) = Codec::with_models(vec![Arc::new(model)]) else {
        return;
    };
    let plain = b"the store keeps a chunk, the store keeps a chunk; \xff\x00 \xe2\x82\xac";
    for kind in [Kind::Mix, Kind::Lm] {
        if let Ok(frame) = codec.encode_as(Some(kind), plain) {
            assert_eq!(codec.decode(&frame, plain.len()).unwrap(), plain);
        }
    }
}

const ME: Caller = Caller { uid: 0, gid: 0 };
const CHUNK: usize = 4096;

fn open(store: &Arc<MemoryStore>, read_only: bool) -> laconicfs::Result<Arc<Volume>> {
    let options = tier::Options {
        chunk_size: CHUNK,
        cache_bytes: 1 << 20,
        drain_threads: 0,
        decode_threads: 0,
        read_only,
        ..tier::Options::default()
    };
    let tier = Tier::open(store.clone() as Arc<dyn Store>, Arc::default(), options)?;
    let options = Options {
        read_only,
        ..Options::default()
    };
    Volume::open(tier, options)
}

/// The rows of a small volume with something of everything.
fn volume_rows() -> &'static Vec<(Table, Vec<Row>)> {
    static ROWS: OnceLock<Vec<(Table, Vec<Row>)>> = OnceLock::new();
    ROWS.get_or_init(|| {
        // Values of any length rest in rows.
        let store = Arc::new(MemoryStore::new(1 << 20));
        {
            let options = tier::Options {
                chunk_size: CHUNK,
                drain_threads: 0,
                ..tier::Options::default()
            };
            let tier = Tier::open(store.clone() as Arc<dyn Store>, Arc::default(), options);
            let tier = tier.unwrap();
            Volume::format(&tier, 0, 0).unwrap();
            tier.close().unwrap();
        }
        let volume = open(&store, false).unwrap();
        let dir = volume.make_dir(ROOT, b"dir", 0o755, ME).unwrap().ino;
        let text = "words of a file, ".repeat(700);
        for (parent, name, len) in [(ROOT, "a", 100), (ROOT, "b", 9000), (dir, "c", 9000)] {
            let made = volume.create(parent, name.as_bytes(), 0o100_644, OpenFlags::WRITE, ME);
            let ino = made.unwrap().0.ino;
            let bytes = &text.as_bytes()[..len];
            volume
                .write_file(ino, 0, bytes, WriteFlags::empty())
                .unwrap();
            volume
                .set_xattr(ino, b"user.x", b"value", XattrFlags::empty())
                .unwrap();
            volume.release(ino);
        }
        let a = volume.lookup(ROOT, b"a").unwrap().ino;
        volume.link(a, dir, b"again").unwrap();
        volume.symlink(dir, b"link", b"../a", ME).unwrap();
        volume.tier().drain(&mut |_| true).unwrap();
        volume
            .write_file(a, 50, b"hot again", WriteFlags::empty())
            .unwrap();
        // That waits beside its chunk; this is a hot one.
        let made = volume.create(dir, b"hot", 0o100_644, OpenFlags::WRITE, ME);
        let hot = made.unwrap().0.ino;
        volume
            .write_file(hot, 0, &text.as_bytes()[..200], WriteFlags::empty())
            .unwrap();
        volume.release(hot);
        // One that is open without a name.
        let made = volume.create(dir, b"orphan", 0o100_600, OpenFlags::WRITE, ME);
        made.unwrap();
        volume.unlink(dir, b"orphan").unwrap();
        volume.sync().unwrap();
        Table::ALL
            .into_iter()
            .map(|table| (table, store.scan(table, b"", None, 10_000).unwrap()))
            .collect()
    })
}

/// Changes to the rows of a volume, which is then read, checked, and used.
///
/// Each change: what, table, row, length, bytes.
pub fn rows(data: &[u8]) {
    let mut tables = volume_rows().clone();
    let mut rest = data;
    while let Some(([what, table, row, len], after)) = rest.split_first_chunk() {
        let (bytes, after) = after.split_at(usize::from(*len).min(after.len()));
        rest = after;
        let rows = &mut tables[usize::from(*table) % Table::ALL.len()].1;
        let at = usize::from(*row) % rows.len().max(1);
        match (what % 5, rows.get_mut(at)) {
            (0, Some(row)) => row.1 = bytes.to_vec(),
            (1, Some(row)) => row.0 = bytes.to_vec(),
            (2, Some(_)) => drop(rows.remove(at)),
            (3, Some(row)) => {
                if let Some((place, bytes)) = bytes.split_first() {
                    let place = usize::from(*place).min(row.1.len());
                    let end = (place + bytes.len()).min(row.1.len());
                    row.1[place..end].copy_from_slice(&bytes[..end - place]);
                }
            }
            _ => {
                let key = bytes.len() / 2;
                rows.push((bytes[..key].to_vec(), bytes[key..].to_vec()));
            }
        }
    }
    let mut batch = Batch::default();
    for (table, rows) in tables {
        for (key, value) in rows {
            batch.put(table, key, value);
        }
    }
    let store = Arc::new(MemoryStore::new(1 << 20));
    store.commit(batch).unwrap();
    if let Ok(volume) = open(&store, true) {
        read(&volume);
        let _ = volume.check();
        let _ = volume.close();
    }
    if let Ok(volume) = open(&store, false) {
        use_it(&volume);
        let _ = volume.close();
    }
}

/// Looks at everything that can be reached.
fn read(volume: &Volume) {
    let mut dirs = vec![ROOT];
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        let mut cookie = 0;
        while let Ok(entries) = volume.read_dir_plus(dir, cookie, 16) {
            let Some((last, _)) = entries.last() else {
                break;
            };
            cookie = last.cookie;
            for (entry, _) in entries {
                seen += 1;
                if seen > 200 {
                    return;
                }
                let ino = entry.ino;
                let _ = (
                    volume.attr(ino),
                    volume.list_xattrs(ino, true),
                    volume.lookup(dir, &entry.name),
                );
                let _ = (volume.read_link(ino), volume.xattr(ino, b"user.x"));
                let _ = (
                    volume.read_file(ino, 0, 10_000),
                    volume.read_file(ino, 4000, 200),
                );
                if entry.file_type == FileType::Directory && ino != dir {
                    dirs.push(ino);
                }
            }
        }
    }
    let _ = (volume.totals(), volume.stat_fs());
}

/// Some of every change.
fn use_it(volume: &Volume) {
    let found = |name: &[u8]| volume.lookup(ROOT, name).map(|attr| attr.ino);
    for name in [b"a", b"b"] {
        let Ok(ino) = found(name) else { continue };
        let _ = volume.write_file(ino, 4090, b"over the edge", WriteFlags::empty());
        let size = Some(5000);
        let set = SetAttr {
            size,
            ..SetAttr::default()
        };
        let _ = volume.set_attr(ino, &set);
        let _ = volume.copy_range(ino, 0, ino, 8192, 4096, false);
        let _ = volume.set_xattr(ino, b"user.y", b"new", XattrFlags::empty());
        let _ = volume.read_file(ino, 0, 20_000);
    }
    let _ = volume.create(ROOT, b"new", 0o100_644, OpenFlags::WRITE, ME);
    let _ = volume.rename(ROOT, b"b", ROOT, b"a", RenameFlags::empty());
    if let Ok(dir) = found(b"dir") {
        let _ = volume.unlink(dir, b"c");
        let _ = volume.rename(dir, b"link", ROOT, b"link", RenameFlags::empty());
        let _ = volume.remove_dir(ROOT, b"dir");
    }
    // Not drained: that looks for more work for a fifth of a second.
    let _ = volume.sync();
    read(volume);
}

/// A store that stays open while the bytes of its only log change.
struct LogStore {
    _home: tempfile::TempDir,
    _dir: StoreDir,
    store: Arc<dyn Store>,
    log: u64,
    file: PathBuf,
    superblock: PathBuf,
}

/// Bytes of that log, as the store sees it.
const LOG: usize = 16 << 10;

fn log_store() -> &'static Mutex<LogStore> {
    static STORE: OnceLock<Mutex<LogStore>> = OnceLock::new();
    STORE.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("store");
        let dir = StoreDir::create(&path, &Properties::default()).unwrap();
        let key = [7; 32];
        let value = dir
            .store()
            .append(Class::Cold, Table::Chunk, &key, &[9; LOG]);
        let Ok(ValueRef::Log { log, .. }) = value else {
            panic!("a value of {LOG} bytes belongs into a log");
        };
        let mut batch = Batch::default();
        batch.put(Table::Meta, "test", "test");
        dir.store().commit(batch).unwrap();
        drop(dir);
        let dir = StoreDir::open(&path, Access::Read).unwrap();
        let superblock = home.path().join("other");
        fs::create_dir(&superblock).unwrap();
        Mutex::new(LogStore {
            _home: home,
            store: dir.store(),
            _dir: dir,
            log,
            file: path.join("logs").join(format!("{log:016x}.cold")),
            superblock,
        })
    })
}

/// A superblock (its hash is put right where the first byte says so), or the
/// bytes of a value log, which is walked, and every record found is read.
pub fn store(data: &[u8]) {
    let Some((what, rest)) = data.split_first() else {
        return;
    };
    let there = log_store().lock().unwrap_or_else(|e| e.into_inner());
    if what & 1 == 0 {
        let mut text = rest.to_vec();
        if what & 2 == 0 {
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or(b"");
            text = line.to_vec();
            text.extend_from_slice(format!("\n{}\n", blake3::hash(line).to_hex()).as_bytes());
        }
        fs::write(there.superblock.join("superblock"), text).unwrap();
        let _ = Superblock::read(&there.superblock);
        return;
    }
    let mut bytes = rest[..rest.len().min(LOG)].to_vec();
    if what & 2 == 0 {
        bytes.resize(LOG, 0);
    }
    fs::write(&there.file, &bytes).unwrap();
    let mut found = Vec::new();
    let walked = there.store.walk_log(there.log, &mut |record| {
        found.push(record);
        Ok(())
    });
    if let Ok(lost) = walked {
        assert!(lost <= 2 * LOG as u64, "{lost} bytes lost of {LOG}");
    }
    for record in found {
        if let ValueRef::Log { len, .. } = record.value
            && let Ok(payload) = there.store.value(&record.value)
        {
            assert_eq!(payload.len(), len as usize);
        }
    }
}

/// A store whose database is lost: its superblock, the name of its journal's
/// file, and what that holds.
struct Lost {
    superblock: Vec<u8>,
    uuid: String,
    file: String,
    journal: Vec<u8>,
}

fn lost_store() -> &'static Lost {
    static LOST: OnceLock<Lost> = OnceLock::new();
    LOST.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("store");
        let dir = StoreDir::create(&path, &Properties::default()).unwrap();
        for number in 0..3_u8 {
            let mut batch = Batch::default();
            batch.put(Table::Inode, [number], [number; 60]);
            batch.put(Table::Dirent, [7, number], "row");
            batch.delete(Table::Inode, [number.wrapping_sub(1)]);
            dir.store().commit(batch).unwrap();
        }
        drop(dir);
        let found = fs::read_dir(path.join("journal")).unwrap();
        let mut files = found.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let file = files.find(|name| name.ends_with(".changes")).unwrap();
        Lost {
            superblock: fs::read(path.join("superblock")).unwrap(),
            uuid: Superblock::read(&path).unwrap().uuid,
            journal: fs::read(path.join("journal").join(&file)).unwrap(),
            file,
        }
    })
}

/// Bytes of the journal from which a lost database is made anew: changes to a
/// good one, or frames whose hashes are put right, behind it.
///
/// First what to do. Of frames: kind, number, twice the length, and the body.
pub fn journal(data: &[u8]) {
    let Some((what, mut rest)) = data.split_first() else {
        return;
    };
    let lost = lost_store();
    let mut bytes = lost.journal.clone();
    if what & 1 == 0 {
        while let Some(([high, low, byte], after)) = rest.split_first_chunk() {
            let at = usize::from(u16::from_be_bytes([*high, *low])) % bytes.len();
            bytes[at] = *byte;
            rest = after;
        }
        if what & 2 != 0 {
            bytes.truncate(bytes.len() / 2);
        }
    } else {
        let (name, extension) = lost.file.split_once('.').unwrap();
        let base = u64::from_str_radix(name, 16).unwrap();
        if what & 2 != 0 {
            bytes.clear();
        }
        while let Some(([kind, number, high, low], after)) = rest.split_first_chunk() {
            let len = usize::from(u16::from_be_bytes([*high, *low])) % 600;
            let (body, after) = after.split_at(len.min(after.len()));
            rest = after;
            let packed = match kind & 8 {
                0 => zstd::bulk::compress(body, 1).unwrap(),
                _ => body.to_vec(),
            };
            let mut frame = b"\x9eLJN\x01".to_vec();
            frame.extend_from_slice(&[kind & 7, 0, 0]);
            frame.extend_from_slice(&(packed.len() as u32).to_be_bytes());
            frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
            frame.extend_from_slice(&u64::from(*number).to_be_bytes());
            let mut hash = blake3::Hasher::new();
            hash.update(lost.uuid.as_bytes())
                .update(extension.as_bytes());
            hash.update(&base.to_be_bytes());
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(&frame).update(&packed);
            frame.extend_from_slice(&hash.finalize().as_bytes()[..16]);
            bytes.extend_from_slice(&frame);
            bytes.extend_from_slice(&packed);
        }
    }
    let home = tempfile::tempdir().unwrap();
    for dir in ["journal", "logs", "models"] {
        fs::create_dir(home.path().join(dir)).unwrap();
    }
    fs::write(home.path().join("superblock"), &lost.superblock).unwrap();
    fs::write(home.path().join("journal").join(&lost.file), bytes).unwrap();
    for access in [Access::Read, Access::Salvage] {
        let Ok(dir) = StoreDir::open(home.path(), access) else {
            continue;
        };
        for table in Table::ALL {
            let _ = dir.store().scan(table, b"", None, 1000);
        }
    }
}
