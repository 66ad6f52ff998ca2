//! The model file: reading, checking, writing. `docs/format-model.md`
//! describes it byte by byte.

use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::kernel::{PACKINGS, Packed, Packing, Scale, square_root};

const MAGIC: &[u8; 8] = b"LACONICM";
/// Versions: 1 has query and key heads with norms; 2 those without.
const VERSION: u32 = 2;
/// Sections begin at a multiple of this.
const ALIGN: usize = 64;
/// Bytes of the check at the end, and of a model's hash.
const HASH: usize = 32;
/// Most bytes of the header, and of a `tokenizer.json`.
const MAX_HEADER: usize = 1 << 20;
const MAX_TOKENIZER: u64 = 64 << 20;
/// Entries of a full turn in the sine table, amplitude 2^14.
pub(super) const TURN: usize = 4096;

fn refuse(reason: impl std::fmt::Display) -> Error {
    Error::Model(format!(
        "the model file cannot be used: {reason}; import the model again or fetch another copy"
    ))
}

/// The shape of a transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Number of tokens.
    pub vocab: usize,
    /// Values of the residual stream.
    pub width: usize,
    pub layers: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Values between the gate and the down projection.
    pub hidden: usize,
    /// Tokens that a token attends to, itself included.
    pub window: usize,
}

impl Shape {
    /// Checks what the integer arithmetic needs to be free of overflow; see
    /// `docs/codec-model.md` for the bounds that follow.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let within = |name: &str, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(format!("{name} is {value}, not {least} to {most}"))
            }
        };
        within("vocab", self.vocab, 256, 1 << 18)?;
        within("width", self.width, 1, 1 << 15)?;
        within("layers", self.layers, 1, 256)?;
        within("heads", self.heads, 1, 256)?;
        within("kv_heads", self.kv_heads, 1, self.heads)?;
        within("head_dim", self.head_dim, 16, 256)?;
        within("hidden", self.hidden, 1, 1 << 15)?;
        within("window", self.window, 16, 4096)?;
        within("heads * head_dim", self.heads * self.head_dim, 16, 1 << 15)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err("heads is not a multiple of kv_heads".into());
        }
        if !self.head_dim.is_multiple_of(16) || !self.window.is_multiple_of(16) {
            return Err("head_dim and window must be multiples of 16".into());
        }
        Ok(())
    }

    pub(super) fn queries(&self) -> usize {
        self.heads * self.head_dim
    }

    /// int8 weights of a model of this shape.
    pub(super) fn parameters(&self, tied: bool) -> usize {
        let layer = self.width * (self.qkv() + self.queries() + 3 * self.hidden);
        let tables = if tied { 1 } else { 2 };
        self.layers * layer + tables * self.vocab * self.width
    }

    /// Rows of the joint query, key and value projection.
    pub(super) fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// What becomes of the sums of queries and keys before they are turned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Heads {
    /// Each head is normed: Qwen3.
    #[default]
    Normed,
    /// Nothing: Llama, Mistral.
    Plain,
    /// Biases are added, to values as well: Qwen2.
    Biased,
}

impl Heads {
    /// The version of a file with such heads.
    fn version(self) -> u32 {
        match self {
            Heads::Normed => 1,
            Heads::Plain | Heads::Biased => 2,
        }
    }

    fn is_normed(&self) -> bool {
        *self == Heads::Normed
    }
}

/// The header, JSON in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub name: String,
    pub family: String,
    pub shape: Shape,
    /// Left out in version 1.
    #[serde(default, skip_serializing_if = "Heads::is_normed")]
    pub heads: Heads,
    /// Whether the head shares the embedding's weights.
    pub tied: bool,
    /// Fraction bits of the residual stream.
    pub fraction: u32,
    /// Epsilon of the norms in units of the squared residual stream.
    pub epsilon: u64,
    /// Shift of the embedding.
    pub embed_shift: u32,
    /// Name, offset and length of each section, in the order of the file.
    pub sections: Vec<(String, u64, u64)>,
}

/// Writes a model file; the header's sections are filled in.
pub(super) fn assemble(mut header: Header, sections: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    // offsets depend on the header's length, and that on their digits: reserve
    header.sections = sections
        .iter()
        .map(|(n, s)| (n.clone(), u64::MAX, s.len() as u64))
        .collect();
    let json = |h: &Header| serde_json::to_vec(h).map_err(|e| Error::Other(e.to_string()));
    let reserved = json(&header)?.len();
    let mut at = (16 + reserved).next_multiple_of(ALIGN);
    for (entry, (_, data)) in header.sections.iter_mut().zip(sections) {
        entry.1 = at as u64;
        at = (at + data.len()).next_multiple_of(ALIGN);
    }
    let mut text = json(&header)?;
    text.resize(reserved, b' ');
    let mut out = Vec::with_capacity(at + HASH);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&header.heads.version().to_le_bytes());
    out.extend_from_slice(&(reserved as u32).to_le_bytes());
    out.extend_from_slice(&text);
    for (_, data) in sections {
        out.resize(out.len().next_multiple_of(ALIGN), 0);
        out.extend_from_slice(data);
    }
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    let hash = blake3::hash(&out);
    out.extend_from_slice(hash.as_bytes());
    Ok(out)
}

/// A norm's gains and their unit, times the square root of the width.
pub(super) struct Gains {
    pub gain: Vec<i16>,
    pub unit: Scale,
}

/// What one layer holds beside its matrices.
pub(super) struct Layer {
    pub attn_norm: Gains,
    pub mlp_norm: Gains,
    /// Scales of the channels of the joint projection: queries and keys
    /// relative to their head's largest, values to the largest value channel.
    pub qkv: Vec<u16>,
    /// Channel scales of queries and keys with the gains of their norms; empty
    /// where there are none.
    pub gained: Vec<i16>,
    /// What a gained scale of 1 stands for, a query or key head each, times the
    /// square root of the head's length; without norms what a channel's scale
    /// of 1 stands for.
    pub head_units: Vec<Scale>,
    /// What is added to queries, keys and values: values of all heads, and the
    /// unit of each head. Empty where nothing is.
    pub bias: Vec<i16>,
    pub bias_units: Vec<Scale>,
    pub v_unit: Scale,
    pub o: Vec<u16>,
    /// In units of the residual stream.
    pub o_unit: Scale,
    pub gate: Vec<u16>,
    pub up: Vec<u16>,
    pub gate_unit: Scale,
    pub up_unit: Scale,
    pub down: Vec<u16>,
    /// In units of the residual stream.
    pub down_unit: Scale,
    matrices: [Range<usize>; 4],
}

/// The matrices of a layer for a kernel.
pub(super) struct PackedLayer {
    pub qkv: Packed,
    pub o: Packed,
    pub gate_up: Packed,
    pub down: Packed,
}

/// All matrices, packed for a kernel.
pub(super) struct Weights {
    pub layers: Vec<PackedLayer>,
    pub head: Packed,
}

/// What a person may want to know of a model.
#[derive(Clone, Debug, Serialize)]
pub struct ModelInfo {
    pub name: String,
    pub family: String,
    /// BLAKE3 of the file, as hexadecimal digits.
    pub hash: String,
    #[serde(flatten)]
    pub shape: Shape,
    /// Number of int8 weights.
    pub parameters: u64,
    pub file_bytes: u64,
    /// Bytes of the mixer's starting weights; 0 if there are none.
    pub mixer_bytes: u64,
}

/// A checked model. Cheap to share behind an [`Arc`].
pub struct Model {
    pub(super) header: Header,
    bytes: Vec<u8>,
    hash: [u8; HASH],
    sections: HashMap<String, Range<usize>>,
    tokenizer: Vec<u8>,
    embed: Range<usize>,
    pub(super) embed_scales: Vec<u32>,
    pub(super) layers: Vec<Layer>,
    pub(super) final_norm: Gains,
    head: Range<usize>,
    pub(super) head_scales: Vec<u16>,
    pub(super) head_unit: Scale,
    /// Turns of each pair of channels from one position to the next, in 2^-32.
    pub(super) frequencies: Vec<u32>,
    pub(super) sine: Vec<i16>,
    pub(super) logistic: [u32; 64],
    packed: [OnceLock<Arc<Weights>>; PACKINGS],
}

/// Cuts numbers out of the sections.
struct Reader<'a> {
    bytes: &'a [u8],
    sections: &'a HashMap<String, Range<usize>>,
}

impl Reader<'_> {
    /// The place of a section, which must have `len` bytes.
    fn place(&self, name: &str, len: usize) -> Result<Range<usize>> {
        let range = self.sections.get(name);
        let range = range.ok_or_else(|| refuse(format!("its section {name:?} is missing")))?;
        if range.len() != len {
            return Err(refuse(format!(
                "its section {name:?} has {} bytes instead of {len}",
                range.len()
            )));
        }
        Ok(range.clone())
    }

    fn numbers<const N: usize, T>(
        &self,
        name: &str,
        count: usize,
        read: impl Fn([u8; N]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let place = self.place(name, count * N)?;
        let (numbers, _) = self.bytes[place].as_chunks::<N>();
        let all: Option<Vec<T>> = numbers.iter().map(|&n| read(n)).collect();
        all.ok_or_else(|| refuse(format!("its section {name:?} holds a number out of range")))
    }

    /// int8 weights: -128 does not occur.
    fn weights(&self, name: &str, count: usize) -> Result<Range<usize>> {
        let place = self.place(name, count)?;
        if self.bytes[place.clone()].contains(&0x80) {
            return Err(refuse(format!(
                "its section {name:?} holds a weight of -128"
            )));
        }
        Ok(place)
    }

    /// Channel scales: 15 bits.
    fn scales(&self, name: &str, count: usize) -> Result<Vec<u16>> {
        self.numbers(name, count, |n| {
            Some(u16::from_le_bytes(n)).filter(|&v| v < 1 << 15)
        })
    }

    fn signed(&self, name: &str, count: usize, limit: u16) -> Result<Vec<i16>> {
        self.numbers(name, count, |n| {
            Some(i16::from_le_bytes(n)).filter(|v| v.unsigned_abs() <= limit)
        })
    }

    fn units(&self, name: &str, count: usize) -> Result<Vec<Scale>> {
        self.numbers(name, count, |n: [u8; 8]| {
            let (m, e) = (
                u64::from_le_bytes(n) as u32,
                (u64::from_le_bytes(n) >> 32) as i32,
            );
            let fine = (1 << 30..1 << 31).contains(&m) && (-128..=64).contains(&e);
            fine.then_some(Scale { m, e })
        })
    }

    fn gains(&self, name: &str, count: usize, unit: Scale) -> Result<Gains> {
        let gain = self.signed(name, count, i16::MAX as u16)?;
        Ok(Gains { gain, unit })
    }
}

/// The version and the header, and where each section lies.
fn open(bytes: &[u8]) -> Result<(Header, HashMap<String, Range<usize>>)> {
    let Some(body) = bytes.len().checked_sub(HASH).filter(|&n| n >= 16) else {
        return Err(refuse("it is too short"));
    };
    if &bytes[..8] != MAGIC {
        return Err(refuse("it is not a laconicfs model"));
    }
    let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
    let version = number(8);
    if version == 0 {
        return Err(refuse("its version is 0"));
    }
    if version > VERSION {
        return Err(Error::NewerFormat {
            what: "the model file".into(),
            found: version,
            known: VERSION,
        });
    }
    if blake3::hash(&bytes[..body]).as_bytes() != &bytes[body..] {
        return Err(refuse("it is damaged or cut short"));
    }
    let len = number(12) as usize;
    if len > MAX_HEADER || 16 + len > body {
        return Err(refuse("its header is too long"));
    }
    let header: Header = serde_json::from_slice(&bytes[16..16 + len])
        .map_err(|e| refuse(format!("its header is not as expected ({e})")))?;
    if header.heads.version() != version {
        return Err(refuse("its heads are not those of its version"));
    }
    let mut sections = HashMap::new();
    let mut last = (16 + len) as u64;
    for (name, offset, length) in &header.sections {
        let end = offset
            .checked_add(*length)
            .filter(|&end| end <= body as u64);
        let Some(end) = end.filter(|_| *offset >= last) else {
            return Err(refuse(format!("its section {name:?} lies outside of it")));
        };
        last = end;
        // both are at most `body`
        let place = *offset as usize..end as usize;
        if sections.insert(name.clone(), place).is_some() {
            return Err(refuse(format!("it has two sections {name:?}")));
        }
    }
    Ok((header, sections))
}

impl Model {
    /// Reads a model file and proves that computing with it cannot overflow.
    pub fn parse(bytes: Vec<u8>) -> Result<Model> {
        let (header, sections) = open(&bytes)?;
        let shape = header.shape.clone();
        shape.check().map_err(refuse)?;
        if !(8..=24).contains(&header.fraction) {
            return Err(refuse(
                "the fraction bits of its residual stream are not 8 to 24",
            ));
        }
        if !(1..=30).contains(&header.embed_shift) || header.epsilon >= 1 << 48 {
            return Err(refuse("embed_shift or epsilon is out of range"));
        }

        let r = Reader {
            bytes: &bytes,
            sections: &sections,
        };
        let (width, queries, hidden) = (shape.width, shape.queries(), shape.hidden);
        let root = square_root(width as u32);
        let mut layers = Vec::new();
        for l in 0..shape.layers {
            let name = |part: &str| format!("{l}.{part}");
            let turned = shape.heads + shape.kv_heads;
            let biased = match header.heads {
                Heads::Normed | Heads::Plain => 0,
                Heads::Biased => turned + shape.kv_heads,
            };
            let mut units = r.units(&name("units"), 7 + turned + biased)?;
            units[..2].iter_mut().for_each(|u| *u = u.times(root));
            let bias_units = units.split_off(7 + turned);
            let gained = match header.heads {
                Heads::Normed => {
                    let turn = square_root(shape.head_dim as u32);
                    units[7..].iter_mut().for_each(|u| *u = u.times(turn));
                    r.signed(&name("qk.gained"), turned * shape.head_dim, i16::MAX as u16)?
                }
                Heads::Plain | Heads::Biased => Vec::new(),
            };
            let bias = match header.heads {
                Heads::Normed | Heads::Plain => Vec::new(),
                Heads::Biased => {
                    r.signed(&name("qkv.bias"), biased * shape.head_dim, i16::MAX as u16)?
                }
            };
            let residual = |u: Scale| u.shifted(header.fraction as i32);
            let mut gate = r.scales(&name("gate_up.scales"), 2 * hidden)?;
            layers.push(Layer {
                attn_norm: r.gains(&name("attn_norm"), width, units[0])?,
                mlp_norm: r.gains(&name("mlp_norm"), width, units[1])?,
                qkv: r.scales(&name("qkv.scales"), shape.qkv())?,
                gained,
                bias,
                bias_units,
                v_unit: units[2],
                o: r.scales(&name("o.scales"), width)?,
                o_unit: residual(units[3]),
                up: gate.split_off(hidden),
                gate,
                gate_unit: units[4],
                up_unit: units[5],
                down: r.scales(&name("down.scales"), width)?,
                down_unit: residual(units[6]),
                head_units: units[7..].to_vec(),
                matrices: [
                    r.weights(&name("qkv"), shape.qkv() * width)?,
                    r.weights(&name("o"), queries * width)?,
                    r.weights(&name("gate_up"), 2 * hidden * width)?,
                    r.weights(&name("down"), hidden * width)?,
                ],
            });
        }
        let units = r.units("units", 2)?;
        let embed = r.weights("embed", shape.vocab * width)?;
        let head = match header.tied {
            true => embed.clone(),
            false => r.weights("head", shape.vocab * width)?,
        };
        let logistic = r.numbers("logistic", 64, |n| {
            let entry = u32::from_le_bytes(n);
            let (value, step) = ((entry & 0xffff) as i32, entry as i32 >> 16);
            let within = |v: i32| (0..1 << 15).contains(&v);
            (within(value) && within(value + step)).then_some(entry)
        })?;
        let mut table = [0; 64];
        table.copy_from_slice(&logistic);

        let compressed = sections.get("tokenizer").cloned();
        let compressed =
            compressed.ok_or_else(|| refuse("its section \"tokenizer\" is missing"))?;
        let mut tokenizer = Vec::new();
        zstd::stream::read::Decoder::new(&bytes[compressed])
            .and_then(|d| d.take(MAX_TOKENIZER).read_to_end(&mut tokenizer))
            .map_err(|e| refuse(format!("its tokenizer cannot be unpacked ({e})")))?;

        let hash = *blake3::hash(&bytes).as_bytes();
        Ok(Model {
            embed_scales: r.numbers("embed.scales", shape.vocab, |n| {
                Some(u32::from_le_bytes(n)).filter(|&s| s < 1 << 23)
            })?,
            final_norm: r.gains("norm", width, units[0].times(root))?,
            head_scales: r.scales("head.scales", shape.vocab)?,
            head_unit: units[1],
            frequencies: r.numbers("frequencies", shape.head_dim / 2, |n| {
                Some(u32::from_le_bytes(n))
            })?,
            sine: r.signed("sine", TURN, 1 << 14)?,
            logistic: table,
            layers,
            embed,
            head,
            tokenizer,
            hash,
            header,
            sections,
            bytes,
            packed: Default::default(),
        })
    }

    /// BLAKE3 of the whole file: the name of the model.
    pub fn hash(&self) -> [u8; HASH] {
        self.hash
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn shape(&self) -> &Shape {
        &self.header.shape
    }

    pub fn info(&self) -> ModelInfo {
        let s = self.shape();
        ModelInfo {
            name: self.header.name.clone(),
            family: self.header.family.clone(),
            hash: blake3::Hash::from_bytes(self.hash).to_hex().to_string(),
            shape: s.clone(),
            parameters: s.parameters(self.header.tied) as u64,
            file_bytes: self.bytes.len() as u64,
            mixer_bytes: self.mixer_start().map_or(0, |m| m.len() as u64),
        }
    }

    /// The `tokenizer.json` of the checkpoint.
    pub fn tokenizer_json(&self) -> &[u8] {
        &self.tokenizer
    }

    /// The mixer's starting weights; opaque to this room.
    pub fn mixer_start(&self) -> Option<&[u8]> {
        let place = self.sections.get("mixer")?;
        Some(&self.bytes[place.clone()])
    }

    /// The same model with other starting weights of the mixer, as a file.
    /// It has another hash.
    pub fn with_mixer_start(&self, mixer: Option<&[u8]>) -> Result<Vec<u8>> {
        let kept = self.header.sections.iter().filter(|s| s.0 != "mixer");
        let mut sections: Vec<(String, Vec<u8>)> = kept
            .map(|s| {
                (
                    s.0.clone(),
                    self.bytes[self.sections[&s.0].clone()].to_vec(),
                )
            })
            .collect();
        sections.extend(mixer.map(|m| ("mixer".into(), m.to_vec())));
        assemble(self.header.clone(), &sections)
    }

    /// The int8 embedding of a token.
    pub(super) fn embedding(&self, code: u32) -> &[u8] {
        let width = self.header.shape.width;
        let at = self.embed.start + code as usize * width;
        &self.bytes[at..at + width]
    }

    /// The matrices as a kernel wants them, packed at the first call.
    pub(super) fn weights(&self, packing: Packing) -> Arc<Weights> {
        let s = self.shape();
        let pack =
            |place: &Range<usize>, inputs| Packed::new(&self.bytes[place.clone()], inputs, packing);
        let weights = self.packed[packing as usize].get_or_init(|| {
            let layers = self.layers.iter().map(|l| PackedLayer {
                qkv: pack(&l.matrices[0], s.width),
                o: pack(&l.matrices[1], s.queries()),
                gate_up: pack(&l.matrices[2], s.width),
                down: pack(&l.matrices[3], s.hidden),
            });
            Arc::new(Weights {
                layers: layers.collect(),
                head: pack(&self.head, s.width),
            })
        });
        weights.clone()
    }
}
