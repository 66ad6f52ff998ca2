//! The text of a lane, and the contexts in which its next token is predicted.

use crate::lm::mixer::tables::hash;

/// Number of adaptive contexts.
pub const CONTEXTS: usize = 20;

/// Tokens that a lane remembers.
pub const RECENT: usize = 4;

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
}

impl Lane {
    pub fn clear(&mut self) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        *self = Lane {
            text,
            ..Lane::default()
        };
    }

    /// Appends a token.
    #[inline(always)]
    pub fn push(&mut self, code: u32, bytes: &[u8]) {
        self.recent.copy_within(..RECENT - 1, 1);
        self.recent[0] = code + 1;
        self.count += 1;
        for &b in bytes {
            self.text.push(b);
            self.bytes = self.bytes << 8 | u64::from(b);
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

    /// The last byte; 0 before the lane.
    #[inline(always)]
    pub fn last_byte(&self) -> u8 {
        self.bytes as u8
    }

    #[inline(always)]
    pub fn column(&self) -> usize {
        self.text.len() - self.line
    }

    /// Three bytes of the line above, from this column on.
    #[inline(always)]
    fn above3(&self) -> u32 {
        let at = self.above + self.column();
        let line_above = &self.text[..self.line];
        let byte = |k: usize| line_above.get(at + k).map_or(0, |&b| u32::from(b));
        byte(0) | byte(1) << 8 | byte(2) << 16
    }

    /// One hash a context. `guess` stands for what the match model foresees.
    #[inline(always)]
    pub fn contexts(&self, guess: u32) -> [u32; CONTEXTS] {
        let [t1, t2, t3, t4] = self.recent;
        let b = self.bytes;
        let above = self.above3();
        let (field, word) = (self.field, self.word);
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
            hash(guess, t1),
            // the last bytes
            b as u32 & 0xffff,
            b as u32 & 0xff_ffff,
            b as u32,
            hash(b as u32, (b >> 32) as u32 & 0xffff),
            // lines and fields
            hash(above, t1),
            hash(above, field),
            hash(field, t1),
            self.column() as u32,
            hash(self.line_head, field),
            // words and tags
            hash(word, self.word_before),
            hash(word, field),
            hash(self.tag, t1),
        ];
        let mut out = [0; CONTEXTS];
        for (i, (o, k)) in out.iter_mut().zip(keys).enumerate() {
            *o = hash(k, i as u32 + 1);
        }
        out
    }
}
