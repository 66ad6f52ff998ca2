//! What files and directories take, chunk by chunk: `du` for chunks that are
//! coded and shared.

mod survey;
mod walk;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::codec::Kind;
use crate::error::Result;
use crate::store::{ChunkId, Class};
use crate::tier::{RecodeFile, Tier};
use crate::volume::{Attr, FileType, Volume};

pub use survey::{Kind as FileKind, Ratio, STEP, Survey, survey};
pub use walk::{Seen, Step, Target, walk};

/// What to measure, and what to say of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    pub targets: Vec<Target>,
    /// Directories this deep below a target get a line of their own; `None`:
    /// all of them.
    pub depth: Option<usize>,
    /// Files get one too.
    pub files: bool,
    pub sort: Sort,
    /// Lines at most.
    pub limit: usize,
}

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Sort {
    /// What takes most on disk.
    #[default]
    Disk,
    /// The longest.
    Logical,
    /// What was coded worst.
    Ratio,
    /// What waits to be coded.
    Waiting,
    Name,
}

/// What something takes. All sizes are bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    pub files: u64,
    /// Sum of the lengths of the files, each file once.
    pub logical: u64,
    /// Plain bytes of the chunks that the files name: without holes, and as
    /// often as they are named.
    pub plain: u64,
    /// Frames of these chunks, as often as they are named.
    pub stored: u64,
    /// Frames with what the store keeps beside each, every chunk once in the
    /// whole answer: where it is met first. What adds up to the answer's total.
    pub disk: u64,
    /// The part of `disk` that is not frames.
    pub overhead: u64,
    /// Plain bytes of chunks that wait to be coded, counted as `disk` is.
    pub waiting: u64,
    pub chunks: u64,
    /// Names of chunks that were met before.
    pub shared: u64,
}

impl Sizes {
    fn add(&mut self, other: &Sizes) {
        self.files += other.files;
        self.logical += other.logical;
        self.plain += other.plain;
        self.stored += other.stored;
        self.disk += other.disk;
        self.overhead += other.overhead;
        self.waiting += other.waiting;
        self.chunks += other.chunks;
        self.shared += other.shared;
    }
}

/// Chunks of one tier and codec, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coded {
    /// `hot` or `cold`.
    pub tier: String,
    pub codec: String,
    pub chunks: u64,
    pub plain: u64,
    pub stored: u64,
    pub disk: u64,
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub path: PathBuf,
    pub directory: bool,
    #[serde(flatten)]
    pub sizes: Sizes,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub lines: Vec<Line>,
    /// Lines that were left out.
    pub more: u64,
    pub total: Sizes,
    pub coded: Vec<Coded>,
}

/// Measures what `query` names. `go_on` is asked from time to time.
pub fn measure(
    volume: &Volume,
    query: &Query,
    go_on: &mut dyn FnMut(&Sizes) -> bool,
) -> Result<Usage> {
    let mut count = Count::new(volume.tier());
    let mut lines = Vec::new();
    for target in &query.targets {
        let mut open: Vec<Sizes> = Vec::new();
        walk(volume, target, &mut |path, depth, attr, step| {
            let sizes = match step {
                Step::Enter => {
                    open.push(Sizes::default());
                    return Ok(true);
                }
                Step::Leave => open.pop().unwrap_or_default(),
                Step::File => count.file(attr)?,
            };
            if let Some(above) = open.last_mut() {
                above.add(&sizes);
            }
            let directory = attr.file_type == FileType::Directory;
            let shown = match directory {
                true => query.depth.is_none_or(|limit| depth <= limit),
                false => query.files || depth == 0,
            };
            if shown {
                lines.push(Line {
                    path: path.into(),
                    directory,
                    sizes,
                });
            }
            Ok(go_on(&count.total))
        })?;
    }
    sort(&mut lines, query.sort);
    let more = lines.len().saturating_sub(query.limit) as u64;
    lines.truncate(query.limit);
    Ok(Usage {
        lines,
        more,
        total: count.total,
        coded: count.coded.into_values().collect(),
    })
}

fn sort(lines: &mut [Line], by: Sort) {
    let ratio = |line: &Line| match line.sizes.plain {
        0 => 0,
        plain => line.sizes.stored.saturating_mul(1_000_000) / plain,
    };
    lines.sort_by(|a, b| {
        let order = match by {
            Sort::Disk => b.sizes.disk.cmp(&a.sizes.disk),
            Sort::Logical => b.sizes.logical.cmp(&a.sizes.logical),
            Sort::Ratio => ratio(b).cmp(&ratio(a)),
            Sort::Waiting => b.sizes.waiting.cmp(&a.sizes.waiting),
            Sort::Name => std::cmp::Ordering::Equal,
        };
        order.then_with(|| a.path.cmp(&b.path))
    });
}

/// Counts files, and each chunk once.
pub struct Count<'a> {
    tier: &'a Tier,
    seen: HashSet<ChunkId>,
    files: Seen,
    pub total: Sizes,
    pub coded: BTreeMap<(TierNumber, Kind), Coded>,
    /// Plain bytes and frames of coded chunks that a policy holds back.
    held: (u64, u64),
}

/// `Class` as a number, in the order of a report.
type TierNumber = u8;

impl<'a> Count<'a> {
    pub fn new(tier: &'a Tier) -> Self {
        Self {
            tier,
            seen: HashSet::new(),
            files: Seen::default(),
            total: Sizes::default(),
            coded: BTreeMap::new(),
            held: (0, 0),
        }
    }

    /// What a file takes; nothing if it was counted already.
    pub fn file(&mut self, attr: &Attr) -> Result<Sizes> {
        let mut sizes = Sizes::default();
        if !self.files.first(attr) {
            return Ok(sizes);
        }
        sizes.files = 1;
        if attr.file_type == FileType::Regular {
            sizes.logical = attr.size;
            self.tier.each_chunk(attr.ino, &mut |chunk| {
                sizes.plain += chunk.plain;
                sizes.stored += chunk.stored;
                sizes.chunks += 1;
                if !self.seen.insert(chunk.name) {
                    sizes.shared += 1;
                    return;
                }
                let disk = chunk.stored + chunk.overhead;
                sizes.disk += disk;
                sizes.overhead += chunk.overhead;
                let hot = chunk.class == Class::Hot;
                if hot {
                    sizes.waiting += chunk.plain;
                } else if survey::holds_back(chunk.policy) {
                    self.held.0 += chunk.plain;
                    self.held.1 += chunk.stored;
                }
                let coded = self
                    .coded
                    .entry((chunk.class as u8, chunk.kind))
                    .or_insert_with(|| Coded {
                        tier: if hot { "hot" } else { "cold" }.into(),
                        codec: chunk.kind.name().into(),
                        ..Coded::default()
                    });
                coded.chunks += 1;
                coded.plain += chunk.plain;
                coded.stored += chunk.stored;
                coded.disk += disk;
            })?;
        }
        self.total.add(&sizes);
        Ok(sizes)
    }
}

/// The regular files of `targets`, each once, to be coded again.
pub fn files(volume: &Volume, targets: &[Target]) -> Result<Vec<RecodeFile>> {
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for target in targets {
        walk(volume, target, &mut |_: &Path, _, attr, _| {
            if attr.file_type == FileType::Regular && attr.size > 0 && seen.insert(attr.ino) {
                files.push(RecodeFile {
                    ino: attr.ino,
                    policy: attr.policy.unwrap_or_default(),
                    size: attr.size,
                });
            }
            Ok(true)
        })?;
    }
    Ok(files)
}
