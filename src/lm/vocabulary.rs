//! Bytes to tokens and back.
//!
//! The tokenizer is a BPE in the public `tokenizer.json` layout, over the
//! byte-level alphabet or with byte fallback. It
//! only *proposes* how to cut a text: bytes come back through the table of this
//! module, so that any byte string is representable and nothing is normalised.
//!
//! A token has two numbers. Its *id* is what the tokenizer and a checkpoint
//! call it; its *code* is its rank among all tokens sorted by their bytes.
//! Everything past this module speaks of codes: neighbours in code order share
//! their first bytes, and so the first binary decisions of the
//! [mixer](super::mixer) are nearly "which first byte", whose statistics
//! generalise.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// Longest text handed to the tokenizer at once, in bytes: it takes more than
/// linear time and much memory for one endless word.
const PIECE: usize = 4096;

/// The largest vocabulary: codes must fit the mixer's node numbers.
const MAX_TOKENS: usize = 1 << 18;

/// The tokens of a model. Codes are ranks of the tokens sorted by bytes.
pub struct Vocabulary {
    tokenizer: Tokenizer,
    /// The bytes of all tokens, in code order, one after another.
    bytes: Vec<u8>,
    /// `bytes[ends[c]..ends[c + 1]]` are those of code `c`; length `len + 1`.
    ends: Vec<u32>,
    code_of_id: Vec<u32>,
    id_of_code: Vec<u32>,
    /// The code of the token that is this byte alone.
    code_of_byte: [u32; 256],
}

fn refuse(reason: impl std::fmt::Display) -> Error {
    Error::Model(format!(
        "tokenizer.json: {reason}; a byte-complete BPE is wanted, byte-level (as of GPT-2, Llama 3, Qwen, SmolLM) or with byte fallback (as of Llama 2, Mistral)"
    ))
}

/// The byte that a character of the byte-level alphabet stands for, as GPT-2
/// defined it: printable Latin-1 stands for itself, all others are counted up
/// from U+0100.
fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let same = (0..=255u8).filter(printable).map(|b| (char::from(b), b));
    let others = (0..=255u8).filter(|b| !printable(b));
    let moved = others.zip('\u{100}'..).map(|(b, c)| (c, b));
    same.chain(moved).collect()
}

/// Whether a field is absent, null, false or an empty string.
fn unset(v: &Value) -> bool {
    v.is_null() || v.as_bool() == Some(false) || v.as_str() == Some("")
}

/// How a tokenizer spells bytes as characters.
enum Spelling {
    /// Each byte is a character of GPT-2's alphabet.
    ByteLevel(HashMap<char, u8>),
    /// Text as it is, a space as [`SPACE`], and `<0x00>` to `<0xFF>` for bytes
    /// that no other token has: SentencePiece with byte fallback.
    ByteFallback,
}

/// What stands for a space where spaces are part of words.
const SPACE: char = '\u{2581}';

impl Spelling {
    /// The bytes of a token, if it is spelt so.
    fn bytes(&self, token: &str) -> Option<Vec<u8>> {
        match self {
            Spelling::ByteLevel(alphabet) => {
                token.chars().map(|c| alphabet.get(&c).copied()).collect()
            }
            Spelling::ByteFallback => {
                let byte = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
                let byte = byte.filter(|digits| digits.len() == 2);
                match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    Some(byte) => Some(vec![byte]),
                    None => Some(token.replace(SPACE, " ").into_bytes()),
                }
            }
        }
    }
}

/// Checks a pre-tokenizer and switches off what would add a leading space.
/// Returns whether it ends in the byte-level alphabet.
fn check_pre_tokenizer(v: &mut Value) -> Result<bool> {
    match v["type"].as_str() {
        Some("Sequence") => {
            let parts = v["pretokenizers"].as_array_mut();
            let mut byte_level = false;
            for part in parts.ok_or_else(|| refuse("a pre-tokenizer sequence without parts"))? {
                byte_level |= check_pre_tokenizer(part)?;
            }
            Ok(byte_level)
        }
        Some("ByteLevel") => {
            v["add_prefix_space"] = Value::Bool(false);
            Ok(true)
        }
        Some("Split") if v["behavior"].as_str() != Some("Removed") => Ok(false),
        Some("Digits" | "Punctuation") => Ok(false),
        other => Err(refuse(format!(
            "the pre-tokenizer {:?} is not supported",
            other.unwrap_or("(none)")
        ))),
    }
}

/// The same of a tokenizer with byte fallback, where spaces are written by the
/// normaliser or by the pre-tokenizer. Returns the normaliser to use.
fn check_metaspace(pre_tokenizer: &mut Value) -> Result<Value> {
    match pre_tokenizer["type"].as_str() {
        None if pre_tokenizer.is_null() => Ok(serde_json::json!({
            "type": "Replace", "pattern": { "String": " " }, "content": SPACE
        })),
        Some("Metaspace")
            if pre_tokenizer["replacement"].as_str() == SPACE.to_string().as_str().into() =>
        {
            pre_tokenizer["prepend_scheme"] = "never".into();
            if let Some(fields) = pre_tokenizer.as_object_mut() {
                fields.remove("add_prefix_space"); // the older name of it
            }
            Ok(Value::Null)
        }
        other => Err(refuse(format!(
            "the pre-tokenizer {:?} with byte fallback is not supported",
            other.unwrap_or("(none)")
        ))),
    }
}

impl Vocabulary {
    /// Reads a `tokenizer.json`. Its normaliser, post-processor and added
    /// tokens take no part: they would change or add bytes. Of the normaliser
    /// of a tokenizer with byte fallback, only the spelling of spaces stays.
    pub fn from_tokenizer_json(json: &[u8]) -> Result<Vocabulary> {
        let mut root: Value =
            serde_json::from_slice(json).map_err(|e| refuse(format!("not valid JSON ({e})")))?;
        let model = &root["model"];
        if model["type"].as_str().is_some_and(|t| t != "BPE") || !model["merges"].is_array() {
            return Err(refuse(format!("the model is {}, not BPE", model["type"])));
        }
        for field in ["continuing_subword_prefix", "end_of_word_suffix"] {
            if !unset(&model[field]) {
                return Err(refuse(format!("model.{field} is set to {}", model[field])));
            }
        }
        let (spelling, normalizer) = if !unset(&model["byte_fallback"]) {
            let normalizer = check_metaspace(&mut root["pre_tokenizer"])?;
            (Spelling::ByteFallback, normalizer)
        } else if check_pre_tokenizer(&mut root["pre_tokenizer"])? {
            (Spelling::ByteLevel(byte_alphabet()), Value::Null)
        } else {
            return Err(refuse("there is no ByteLevel pre-tokenizer"));
        };

        let tokens = Self::token_bytes(&root, &spelling)?;
        let len = tokens.len();
        let mut id_of_code: Vec<u32> = (0..len as u32).collect();
        id_of_code.sort_by_key(|&id| &tokens[id as usize]); // stable: equal bytes in order of ids
        let mut code_of_id = vec![0; len];
        let (mut bytes, mut ends) = (Vec::new(), vec![0]);
        let mut code_of_byte = [u32::MAX; 256];
        for (code, &id) in id_of_code.iter().enumerate() {
            let token = &tokens[id as usize];
            code_of_id[id as usize] = code as u32;
            bytes.extend_from_slice(token);
            ends.push(bytes.len() as u32);
            if let &[b] = token.as_slice() {
                code_of_byte[usize::from(b)] = code_of_byte[usize::from(b)].min(code as u32);
            }
        }
        if let Some(b) = code_of_byte.iter().position(|&c| c == u32::MAX) {
            return Err(refuse(format!("no token stands for the byte {b:#04x}")));
        }

        for field in ["post_processor", "truncation", "padding", "decoder"] {
            root[field] = Value::Null;
        }
        root["normalizer"] = normalizer;
        root["added_tokens"] = Value::Array(Vec::new());
        root["model"]["dropout"] = Value::Null;
        root["model"]["unk_token"] = Value::Null;
        let plain = serde_json::to_vec(&root).map_err(refuse)?;
        let tokenizer = Tokenizer::from_bytes(plain).map_err(refuse)?;
        Ok(Vocabulary {
            tokenizer,
            bytes,
            ends,
            code_of_id,
            id_of_code,
            code_of_byte,
        })
    }

    /// The bytes of every token by id: those of the model as they are spelt,
    /// added ones as they are written.
    fn token_bytes(root: &Value, spelling: &Spelling) -> Result<Vec<Vec<u8>>> {
        let vocab = root["model"]["vocab"].as_object();
        let vocab = vocab.ok_or_else(|| refuse("model.vocab is missing"))?;
        let none = Vec::new();
        let added = root["added_tokens"].as_array().unwrap_or(&none);
        let mut by_id: HashMap<u64, Vec<u8>> = HashMap::new();
        for token in added {
            let (id, text) = (token["id"].as_u64(), token["content"].as_str());
            let (Some(id), Some(text)) = (id, text) else {
                return Err(refuse("an added token without id or content"));
            };
            by_id.insert(id, text.as_bytes().to_vec());
        }
        let specials: Vec<u64> = by_id.keys().copied().collect();
        for (text, id) in vocab {
            let id = id
                .as_u64()
                .ok_or_else(|| refuse(format!("the id of {text:?} is not a number")))?;
            if specials.contains(&id) {
                continue;
            }
            let bytes = spelling.bytes(text).ok_or_else(|| {
                refuse(format!(
                    "the token {text:?} is not spelt in the byte-level alphabet"
                ))
            })?;
            if by_id.insert(id, bytes).is_some() {
                return Err(refuse(format!("two tokens have the id {id}")));
            }
        }
        let len = by_id.len();
        if len > MAX_TOKENS {
            return Err(refuse(format!("{len} tokens are more than {MAX_TOKENS}")));
        }
        let in_order = (0..len as u64).map(|id| by_id.remove(&id));
        let tokens: Option<Vec<Vec<u8>>> = in_order.collect();
        let tokens = tokens.ok_or_else(|| refuse("the ids have gaps"))?;
        if tokens.iter().any(Vec::is_empty) {
            return Err(refuse("a token without bytes"));
        }
        Ok(tokens)
    }

    /// Number of tokens; codes are below it.
    #[allow(clippy::len_without_is_empty)] // never empty: it has all bytes
    pub fn len(&self) -> usize {
        self.id_of_code.len()
    }

    /// Bits of a code: the binary decisions of a token.
    pub fn depth(&self) -> u32 {
        usize::BITS - (self.len() - 1).leading_zeros()
    }

    /// The code that stands before every chunk and lane: the token of byte 0.
    pub fn start(&self) -> u32 {
        self.code_of_byte[0]
    }

    /// The code of the token that is this byte alone.
    pub fn code_of_byte(&self, byte: u8) -> u32 {
        self.code_of_byte[usize::from(byte)]
    }

    /// The bytes of a token; none for what is not a code.
    pub fn bytes_of(&self, code: u32) -> &[u8] {
        let at = code as usize;
        match self.ends.get(at..at.saturating_add(2)) {
            Some(&[from, to]) => &self.bytes[from as usize..to as usize],
            _ => &[],
        }
    }

    /// The code of a tokenizer's id; none for what is not an id.
    pub fn code_of_id(&self, id: u32) -> Option<u32> {
        self.code_of_id.get(id as usize).copied()
    }

    /// The tokenizer's id of a code; none for what is not a code.
    pub fn id_of_code(&self, code: u32) -> Option<u32> {
        self.id_of_code.get(code as usize).copied()
    }

    /// Cuts any bytes into tokens whose bytes, one after another, are `plain`.
    /// A function of its argument and the vocabulary alone.
    pub fn encode(&self, plain: &[u8]) -> Vec<u32> {
        let mut codes = Vec::with_capacity(plain.len() / 2 + 16);
        for run in plain.utf8_chunks() {
            let mut text = run.valid();
            while !text.is_empty() {
                let (piece, rest) = text.split_at(cut(text));
                self.encode_piece(piece, &mut codes);
                text = rest;
            }
            codes.extend(run.invalid().iter().map(|&b| self.code_of_byte(b)));
        }
        codes
    }

    /// Appends the codes of a short text: as the tokenizer cuts it, or byte by
    /// byte where that would not give the text back.
    fn encode_piece(&self, piece: &str, codes: &mut Vec<u32>) {
        let before = codes.len();
        let mut rest = piece.as_bytes();
        if let Ok(encoding) = self.tokenizer.encode_fast(piece, false) {
            for &id in encoding.get_ids() {
                let Some(code) = self.code_of_id(id) else {
                    break;
                };
                let Some(after) = rest.strip_prefix(self.bytes_of(code)) else {
                    break;
                };
                codes.push(code);
                rest = after;
            }
        }
        if !rest.is_empty() {
            codes.truncate(before);
            codes.extend(piece.bytes().map(|b| self.code_of_byte(b)));
        }
    }
}

/// Where to end the first piece of a text: all of it, or after the last line
/// of the first [`PIECE`] bytes that no white space follows (there, words end
/// anyway), or after its last whole character.
fn cut(text: &str) -> usize {
    if text.len() <= PIECE {
        return text.len();
    }
    let bytes = text.as_bytes();
    let line_end = (PIECE / 2..PIECE)
        .rev()
        .find(|&i| bytes[i - 1] == b'\n' && bytes[i].is_ascii_graphic());
    line_end.unwrap_or_else(|| {
        let ends = (PIECE - 3..=PIECE)
            .rev()
            .find(|&i| text.is_char_boundary(i));
        ends.unwrap_or(text.len()) // a character has at most four bytes: there is an end
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A small byte-complete BPE written here: all bytes, and a few merges.
    pub(crate) fn small_json() -> Vec<u8> {
        let of_byte: HashMap<u8, char> = byte_alphabet().into_iter().map(|(c, b)| (b, c)).collect();
        let merges = [
            ("t", "h"),
            ("th", "e"),
            ("Ġ", "the"),
            ("a", "n"),
            ("an", "d"),
            ("Ġ", "and"),
            ("i", "n"),
            ("e", "r"),
            ("Ġ", "Ġ"),
            ("ĠĠ", "ĠĠ"),
            ("Ċ", "Ċ"),
            ("0", "0"),
            ("00", "00"),
            ("Ã", "©"),
            ("o", "n"),
            ("e", "d"),
        ];
        let mut vocab = serde_json::Map::new();
        for b in 0..=255u8 {
            vocab.insert(of_byte[&b].to_string(), Value::from(255 - u32::from(b)));
        }
        for (i, (a, b)) in merges.iter().enumerate() {
            vocab.insert(format!("{a}{b}"), Value::from(256 + i));
        }
        let merges: Vec<Value> = merges
            .iter()
            .map(|(a, b)| serde_json::json!([a, b]))
            .collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": { "type": "NFC" },
            "added_tokens": [{ "id": 272, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false, "special": true }],
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": " ?\\p{L}+|\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" }, "behavior": "Isolated", "invert": false },
                { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": false } ] },
            "post_processor": null, "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges }
        });
        serde_json::to_vec(&json).unwrap()
    }

    /// A small BPE with byte fallback in the layout of SentencePiece; spaces are
    /// written by the normaliser, or by a pre-tokenizer that cuts at them.
    pub(crate) fn fallback_json(cuts: bool) -> Vec<u8> {
        let merges = [
            ("t", "h"),
            ("th", "e"),
            ("▁", "the"),
            ("▁", "▁"),
            ("o", "n"),
            ("e", "d"),
        ];
        let mut vocab = serde_json::Map::new();
        let mut add = |token: String| {
            let id = vocab.len();
            vocab.insert(token, Value::from(id));
        };
        for special in ["<unk>", "<s>", "</s>"] {
            add(special.into());
        }
        (0..=255u8).for_each(|b| add(format!("<0x{b:02X}>")));
        "▁etaonhd".chars().for_each(|c| add(c.into()));
        merges.iter().for_each(|(a, b)| add(format!("{a}{b}")));
        let merges: Vec<String> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
        let special = |id: u32, text: &str| {
            serde_json::json!({ "id": id, "content": text, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true })
        };
        let (normalizer, pre_tokenizer) = match cuts {
            true => (
                Value::Null,
                serde_json::json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true }),
            ),
            false => (
                serde_json::json!({ "type": "Sequence", "normalizers": [
                    { "type": "Prepend", "prepend": "▁" },
                    { "type": "Replace", "pattern": { "String": " " }, "content": "▁" } ] }),
                Value::Null,
            ),
        };
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": normalizer,
            "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
            "pre_tokenizer": pre_tokenizer, "post_processor": null,
            "decoder": { "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, { "type": "Fuse" }] },
            "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": vocab, "merges": merges }
        });
        serde_json::to_vec(&json).unwrap()
    }

    #[test]
    fn byte_fallback() {
        for cuts in [false, true] {
            let v = Vocabulary::from_tokenizer_json(&fallback_json(cuts)).unwrap();
            assert_eq!(v.bytes_of(v.start()), [0]);
            assert_eq!(back(&v, b"the the"), 2); // "the", " the": nothing is prepended
            assert_eq!(back(&v, b"  on"), if cuts { 3 } else { 2 });
            assert_eq!(back(&v, b"z\n"), 2); // bytes that no other token has
            // what looks like a space or a byte to the tokenizer is neither
            back(&v, "the\u{2581}the <0x41> <s> \u{20ac}".as_bytes());
            back(&v, b"\xff the \xe2\x96 \0");
            for unit in ["\0", " ", "the ", "\n", "\u{2581}", "o"] {
                back(&v, &unit.repeat((1 << 18) / unit.len()).into_bytes());
            }
        }
    }

    pub(crate) fn small() -> Vocabulary {
        Vocabulary::from_tokenizer_json(&small_json()).unwrap()
    }

    fn back(v: &Vocabulary, plain: &[u8]) -> usize {
        let codes = v.encode(plain);
        let bytes: Vec<u8> = codes.iter().flat_map(|&c| v.bytes_of(c).to_vec()).collect();
        assert_eq!(bytes, plain);
        codes.len()
    }

    #[test]
    fn codes_are_ranks_by_bytes() {
        let v = small();
        assert_eq!((v.len(), v.depth()), (273, 9));
        for c in 1..v.len() as u32 {
            assert!(v.bytes_of(c - 1) < v.bytes_of(c));
        }
        for id in 0..v.len() as u32 {
            assert_eq!(v.id_of_code(v.code_of_id(id).unwrap()), Some(id));
        }
        assert_eq!(v.bytes_of(v.start()), [0]);
        assert_eq!((v.code_of_id(273), v.id_of_code(273)), (None, None));
        assert_eq!((v.bytes_of(273), v.bytes_of(u32::MAX)), (&[][..], &[][..]));
    }

    #[test]
    fn merges_are_used_and_nothing_is_normalised() {
        let v = small();
        assert_eq!(back(&v, b"the and"), 2);
        assert_eq!(
            back(&v, "e\u{301}<|end|>  <|end|> x".as_bytes()),
            3 + 7 + 1 + 8 + 2
        );
        back(&v, b"\xff\xfe the \xe2\x82 and \x00\x01");
        assert_eq!(back(&v, b""), 0);
    }

    #[test]
    fn endless_words_and_lines() {
        let v = small();
        for unit in ["\0", " ", "a", "0", "\n", "\u{20ac}", "the", " \n", "- "] {
            back(&v, &unit.repeat((1 << 20) / unit.len()).into_bytes());
        }
        back(&v, &vec![0xff; 1 << 20]);
    }

    #[test]
    fn what_is_not_byte_level_bpe_is_refused() {
        let change = |edit: &dyn Fn(&mut Value)| {
            let mut root: Value = serde_json::from_slice(&small_json()).unwrap();
            edit(&mut root);
            let refused = Vocabulary::from_tokenizer_json(&serde_json::to_vec(&root).unwrap());
            refused.err().expect("refused").to_string()
        };
        assert!(change(&|r| r["model"]["type"] = "Unigram".into()).contains("not BPE"));
        assert!(change(&|r| r["model"]["byte_fallback"] = true.into()).contains("byte fallback"));
        assert!(change(&|r| r["pre_tokenizer"] = Value::Null).contains("pre-tokenizer"));
        assert!(
            change(&|r| r["pre_tokenizer"]["pretokenizers"][1]["type"] = "Metaspace".into())
                .contains("Metaspace")
        );
        assert!(
            change(&|r| r["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed".into())
                .contains("Split")
        );
        assert!(
            change(&|r| {
                r["model"]["vocab"].as_object_mut().unwrap().remove("a");
            })
            .contains("gaps")
        );
        assert!(
            change(&|r| {
                let vocab = r["model"]["vocab"].as_object_mut().unwrap();
                let id = vocab.remove("a").unwrap();
                vocab.insert("abc".into(), id);
            })
            .contains("0x61")
        );
        assert!(change(&|r| r["model"]["vocab"]["€"] = 273.into()).contains("alphabet"));
        assert!(change(&|r| r["model"]["vocab"]["xx"] = 3.into()).contains("two tokens"));
        for garbage in [&b""[..], b"{}", b"[1]", b"{\"model\":3}", b"\xff"] {
            assert!(Vocabulary::from_tokenizer_json(garbage).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(plain: Vec<u8>) {
            back(&small(), &plain);
        }

        #[test]
        fn any_text_comes_back_with_byte_fallback(text in "(the|on|▁| |\\n|0|é|[a-z]|\\PC){0,300}") {
            for cuts in [false, true] {
                let v = Vocabulary::from_tokenizer_json(&fallback_json(cuts)).unwrap();
                back(&v, text.as_bytes());
            }
        }

        #[test]
        fn any_text_comes_back(text in "(the|and| |\\n|0|é|[a-z]|\\PC){0,300}") {
            back(&small(), text.as_bytes());
        }
    }
}
