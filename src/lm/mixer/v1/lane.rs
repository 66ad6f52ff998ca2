//! The text of a lane, and the contexts in which its next token is predicted.

use crate::lm::mixer::tables::hash;

/// Number of adaptive contexts.
pub const CONTEXTS: usize = 23;

/// The context of what the match model foresees.
pub const GUESS: usize = 7;

/// Tokens that a lane remembers.
pub const RECENT: usize = 6;

/// Last tokens whose successors a lane remembers, by hash.
const FOLLOWED: usize = 1 << 12;

/// What a lane has coded so far, kept so that a token costs no rescans.
#[derive(Default)]
pub struct Lane {
    pub text: Vec<u8>,
    /// The last tokens, newest first, as code + 1; 0 before the lane.
    pub recent: [u32; RECENT],
    /// Tokens coded.
    pub count: u32,
    /// Where the current line and the one before it start in `text`.
    line: usize,
    above: usize,
    /// Hashes of the word that the text ends in (0 between words), and of the
    /// last one before it. Bytes outside ASCII count as letters.
    word: u32,
    word_before: u32,
    /// Up to four bytes that this line begins with.
    line_head: u32,
    /// Separators seen in this line.
    field: u32,
    /// Hash of the last tag's name, and whether it still grows.
    tag: u32,
    in_tag: bool,
    /// The last eight bytes, newest lowest.
    pub bytes: u64,
    /// The kinds of the last bytes, four bits each, newest lowest; runs of
    /// digits, of letters, of capitals are one.
    kinds: u32,
    /// What last followed each token, by the token's hash: the newest in the
    /// lower 16 bits, the one before it above.
    followers: Vec<u32>,
    /// Bytes of a record; 0 if the chunk has none.
    stride: usize,
    /// One hash a context, for the next token; that of [`GUESS`] is to come.
    pub contexts: [u32; CONTEXTS],
}

/// Classes of three bytes.
pub const CLASSES: usize = 64;

/// Digits, letters, white space, others.
fn class(b: u8) -> usize {
    match b {
        b'0'..=b'9' => 1,
        b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => 2,
        b' ' | b'\n' | b'\t' => 3,
        _ => 0,
    }
}

/// A coarse alphabet.
fn kind(b: u8) -> u32 {
    match b {
        b'0'..=b'9' => 1,
        b'a'..=b'z' | 0x80.. => 2,
        b'A'..=b'Z' => 3,
        b' ' => 4,
        b'\n' => 5,
        b',' | b';' | b'\t' => 6,
        b'"' | b'\'' => 7,
        b'<' | b'>' | b'(' | b')' | b'{' | b'}' | b'[' | b']' => 8,
        0 => 9,
        1..=31 => 10,
        _ => 11 + u32::from(b & 3),
    }
}

impl Lane {
    /// Begins a lane of a chunk with records of `stride` bytes.
    pub fn begin(&mut self, stride: usize) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let mut followers = std::mem::take(&mut self.followers);
        followers.clear();
        followers.resize(FOLLOWED, 0);
        *self = Lane {
            text,
            followers,
            stride,
            ..Lane::default()
        };
        self.set_contexts();
    }

    /// Appends a token.
    #[inline(always)]
    pub fn push(&mut self, code: u32, bytes: &[u8]) {
        let place = self.follower_of(self.recent[0]);
        if let Some(f) = self.followers.get_mut(place) {
            *f = *f << 16 | (code + 1);
        }
        self.recent.copy_within(..RECENT - 1, 1);
        self.recent[0] = code + 1;
        self.count += 1;
        for &b in bytes {
            self.text.push(b);
            self.bytes = self.bytes << 8 | u64::from(b);
            let kind = kind(b);
            if kind > 3 || kind != self.kinds & 15 {
                self.kinds = self.kinds << 4 | kind;
            }
            if b >= 0x80 || b.is_ascii_alphabetic() {
                self.word = (self.word ^ u32::from(b | 32)).wrapping_mul(0x2F0B_4C47) | 1;
            } else {
                if self.word != 0 {
                    self.word_before = self.word;
                    self.word = 0;
                }
                match b {
                    b'\n' => {
                        self.above = self.line;
                        self.line = self.text.len();
                        self.field = 0;
                        self.line_head = 0;
                    }
                    b',' | b'\t' | b' ' | b'|' | b';' => self.field += 1,
                    _ => {}
                }
            }
            if (1..=4).contains(&self.column()) {
                self.line_head = self.line_head << 8 | u32::from(b);
            }
            match b {
                b'<' => (self.tag, self.in_tag) = (0, true),
                b' ' | b'>' => self.in_tag = false,
                _ if self.in_tag => {
                    self.tag = self
                        .tag
                        .wrapping_mul(0x2F0B_4C47)
                        .wrapping_add(u32::from(b))
                }
                _ => {}
            }
        }
    }

    fn follower_of(&self, token: u32) -> usize {
        (hash(token, 7) >> 20) as usize
    }

    /// The last byte; 0 before the lane.
    #[inline(always)]
    pub fn last_byte(&self) -> u8 {
        self.bytes as u8
    }

    /// What kinds of bytes the last three are: below [`CLASSES`].
    #[inline(always)]
    pub fn classes(&self) -> usize {
        let of = |back: u32| class((self.bytes >> (8 * back)) as u8);
        of(0) * 16 + of(1) * 4 + of(2)
    }

    #[inline(always)]
    pub fn column(&self) -> usize {
        self.text.len() - self.line
    }

    /// A byte of an earlier record, so many after this place.
    #[inline(always)]
    fn up(&self, records: usize, after: usize) -> u32 {
        let at = (self.text.len() + after).checked_sub(self.stride * records);
        at.and_then(|at| self.text.get(at))
            .map_or(0, |&b| u32::from(b))
    }

    /// Where in its line or record the next token stands.
    #[inline(always)]
    fn place(&self) -> Place {
        if self.stride > 0 {
            let (one, next) = (self.up(1, 0), self.up(1, 1));
            return Place {
                above: one | next << 8 | self.up(1, 2) << 16,
                field: one | self.up(2, 0) << 8 | 1 << 20,
                column: (self.text.len() % self.stride) as u32,
                head: one << 8 | next << 16 | u32::from(self.last_byte()) | 1 << 30,
            };
        }
        let at = self.above + self.column();
        let line_above = &self.text[..self.line];
        let byte = |k: usize| line_above.get(at + k).map_or(0, |&b| u32::from(b));
        Place {
            above: byte(0) | byte(1) << 8 | byte(2) << 16,
            field: self.field,
            column: self.column() as u32,
            head: self.line_head,
        }
    }

    /// The hash of [`GUESS`]; `guess` stands for what the match model foresees.
    #[inline(always)]
    pub fn guess_context(&self, guess: u32) -> u32 {
        hash(hash(guess, self.recent[0]), GUESS as u32 + 1)
    }

    /// Sets the hashes of the contexts, once the last token is here.
    #[inline(always)]
    pub fn set_contexts(&mut self) {
        let [t1, t2, t3, t4, ..] = self.recent;
        let b = self.bytes;
        let Place {
            above,
            field,
            column,
            head,
        } = self.place();
        let word = self.word;
        let followers = self.followers.get(self.follower_of(t1));
        let o2 = hash(t1, t2);
        let o3 = hash(o2, t3);
        let keys = [
            // the last tokens
            0,
            t1,
            o2,
            o3,
            hash(o3, t4),
            // some of them skipped
            t2,
            hash(t2, t3),
            // what the match model foresees
            0,
            // the last bytes
            b as u32 & 0xffff,
            b as u32 & 0xff_ffff,
            b as u32,
            hash(b as u32, (b >> 32) as u32 & 0xffff),
            // lines and fields, or records
            hash(above, t1),
            hash(above, field),
            hash(field, t1),
            column,
            hash(head, field),
            // words and tags
            hash(word, self.word_before),
            hash(word, field),
            hash(self.tag, t1),
            // what followed the last token before
            hash(followers.copied().unwrap_or(0), t1),
            // kinds of the last bytes
            hash(self.kinds & 0xff_ffff, 3),
            hash(t1, t3),
        ];
        for (i, (context, key)) in self.contexts.iter_mut().zip(keys).enumerate() {
            *context = hash(key, i as u32 + 1);
        }
    }
}

/// Where a token stands in the text around it: in lines, or in records.
struct Place {
    /// Three bytes of the line above from this column on, or of the record
    /// before from this place on.
    above: u32,
    /// Separators so far in the line, or the byte here of the two records
    /// before.
    field: u32,
    column: u32,
    /// The bytes that the line begins with, or two of the record before and the
    /// last byte.
    head: u32,
}
