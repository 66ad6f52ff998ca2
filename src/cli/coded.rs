//! A file coded without a store: its chunk frames one after another behind a
//! small header (`docs/format-coded.md`).

use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context, Result, bail};

use crate::codec::{Codec, Coded, Kind};
use crate::error::Error;
use crate::parallel;
use crate::store::ChunkId;

const MAGIC: [u8; 4] = *b"lcnf";
const VERSION: u8 = 1;

/// Set in the flags when the hash of a model follows.
const HAS_MODEL: u8 = 1;

/// Length of the header without the model's hash.
const FIXED: usize = 16;

/// Bytes of a chunk's hash that its record keeps.
const CHECK: usize = 16;

/// Chunks in memory at once, for each thread.
const BATCH: usize = 8;

/// What a coded file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub chunk_size: usize,
    /// Plain bytes of all chunks.
    pub plain_len: u64,
    /// BLAKE3 of the model's file, where one is needed to decode.
    pub model: Option<[u8; 32]>,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let flags = if self.model.is_some() { HAS_MODEL } else { 0 };
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&[VERSION, flags, self.chunk_size.ilog2() as u8, 0]);
        out.extend_from_slice(&self.plain_len.to_be_bytes());
        out.extend_from_slice(self.model.as_ref().map_or(&[], |hash| hash.as_slice()));
        out
    }

    /// Reads the header of a coded file.
    pub fn read(input: &mut impl Read) -> Result<Header> {
        let mut fixed = [0; FIXED];
        read_or_short(input, &mut fixed)?;
        let [a, b, c, d, version, flags, log2, _, len @ ..] = fixed;
        if [a, b, c, d] != MAGIC {
            return Err(
                Error::Corrupt("this is not a file that `codec encode` made".into()).into(),
            );
        }
        if version != VERSION || flags > HAS_MODEL {
            return Err(Error::NewerFormat {
                what: "a coded file".into(),
                found: version.into(),
                known: VERSION.into(),
            }
            .into());
        }
        if log2 > 24 {
            return Err(Error::Corrupt("a coded file with an impossible chunk size".into()).into());
        }
        let model = match flags & HAS_MODEL {
            0 => None,
            _ => {
                let mut hash = [0; 32];
                read_or_short(input, &mut hash)?;
                Some(hash)
            }
        };
        Ok(Header {
            chunk_size: 1 << log2,
            plain_len: u64::from_be_bytes(len),
            model,
        })
    }
}

/// Encodes all of `input`. `output` holds nothing yet; `each` hears of the
/// plain bytes done. Returns the length of the plain bytes.
pub fn encode<W: Write + Seek>(
    codec: &Codec,
    kind: Option<Kind>,
    mut header: Header,
    threads: usize,
    input: &mut impl Read,
    output: &mut W,
    each: &mut dyn FnMut(u64),
) -> Result<u64> {
    header.plain_len = 0;
    output.write_all(&header.encode()).context(WRITING)?;
    loop {
        let chunks = read_chunks(input, header.chunk_size, threads * BATCH)?;
        let frames = parallel::map(threads, &chunks, |plain| codec.encode_as(kind, plain));
        for (plain, frame) in chunks.iter().zip(frames) {
            let frame = frame?;
            let len = u32::try_from(frame.len()).context("a frame is too large")?;
            output.write_all(&len.to_be_bytes()).context(WRITING)?;
            let check = &ChunkId::of(plain).0[..CHECK];
            output.write_all(check).context(WRITING)?;
            output.write_all(&frame).context(WRITING)?;
            header.plain_len += plain.len() as u64;
            each(plain.len() as u64);
        }
        if chunks.len() < threads * BATCH {
            break;
        }
    }
    // Only now is it known how long the input was.
    output.seek(SeekFrom::Start(0)).context(WRITING)?;
    output.write_all(&header.encode()).context(WRITING)?;
    output.flush().context(WRITING)?;
    Ok(header.plain_len)
}

/// Decodes what follows `header`; every chunk is compared with its hash.
pub fn decode(
    codec: &Codec,
    header: &Header,
    threads: usize,
    input: &mut impl Read,
    output: &mut impl Write,
    each: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut left = header.plain_len;
    let mut number = 0u64;
    while left > 0 {
        let mut records = Vec::new();
        while left > 0 && records.len() < threads * BATCH {
            let plain_len = left.min(header.chunk_size as u64) as usize;
            records.push(read_record(input, plain_len)?);
            left -= plain_len as u64;
        }
        let frames: Vec<Coded> = (records.iter())
            .map(|record| (record.frame.as_slice(), record.plain_len))
            .collect();
        let plains = codec.decode_all(threads, &frames);
        for (plain, record) in plains.into_iter().zip(&records) {
            let plain =
                plain.and_then(
                    |plain| match ChunkId::of(&plain).0[..CHECK] == record.check {
                        true => Ok(plain),
                        false => Err(Error::Corrupt("it does not match its hash".into())),
                    },
                );
            let plain = plain.with_context(|| format!("chunk {number}"))?;
            output.write_all(&plain).context(WRITING)?;
            each(plain.len() as u64);
            number += 1;
        }
    }
    if input.read(&mut [0]).context(READING)? != 0 {
        return Err(Error::Corrupt("bytes follow the last chunk".into()).into());
    }
    output.flush().context(WRITING)
}

const READING: &str = "reading the input";
const WRITING: &str = "writing the output";

struct Record {
    frame: Vec<u8>,
    plain_len: usize,
    check: [u8; CHECK],
}

fn read_record(input: &mut impl Read, plain_len: usize) -> Result<Record> {
    let mut len = [0; 4];
    read_or_short(input, &mut len)?;
    let len = u32::from_be_bytes(len) as usize;
    // A frame is at most the plain bytes and the byte that says so.
    if len > plain_len + 1 {
        return Err(Error::Corrupt("a frame longer than its chunk".into()).into());
    }
    let mut record = Record {
        frame: vec![0; len],
        plain_len,
        check: [0; CHECK],
    };
    read_or_short(input, &mut record.check)?;
    read_or_short(input, &mut record.frame)?;
    Ok(record)
}

fn read_or_short(input: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    match input.read_exact(buffer) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(Error::Corrupt("the coded file ends too early".into()).into())
        }
        result => result.context(READING),
    }
}

/// At most `limit` chunks; fewer only at the end of the input.
pub fn read_chunks(input: &mut impl Read, size: usize, limit: usize) -> Result<Vec<Vec<u8>>> {
    let mut chunks = Vec::new();
    while chunks.len() < limit {
        let mut chunk = Vec::new();
        let mut part = input.by_ref().take(size as u64);
        part.read_to_end(&mut chunk).context(READING)?;
        let last = chunk.len() < size;
        if !chunk.is_empty() {
            chunks.push(chunk);
        }
        if last {
            break;
        }
    }
    if limit == 0 {
        bail!("no room for a chunk");
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn coded(plain: &[u8], kind: Option<Kind>) -> Vec<u8> {
        let header = Header {
            chunk_size: 4096,
            plain_len: 0,
            model: None,
        };
        let mut out = Cursor::new(Vec::new());
        let mut done = 0;
        let mut each = |n| done += n;
        let len = encode(
            &Codec::default(),
            kind,
            header,
            2,
            &mut &*plain,
            &mut out,
            &mut each,
        );
        assert_eq!(len.unwrap(), plain.len() as u64);
        assert_eq!(done, plain.len() as u64);
        out.into_inner()
    }

    fn decoded(mut coded: &[u8]) -> Result<Vec<u8>> {
        let header = Header::read(&mut coded)?;
        let mut out = Vec::new();
        decode(
            &Codec::default(),
            &header,
            2,
            &mut coded,
            &mut out,
            &mut |_| (),
        )?;
        Ok(out)
    }

    fn text(len: usize) -> Vec<u8> {
        b"To be or not to be. "
            .iter()
            .copied()
            .cycle()
            .take(len)
            .collect()
    }

    #[test]
    fn every_length_comes_back() {
        for len in [0, 1, 4095, 4096, 4097, 4096 * 16, 4096 * 16 + 1, 4096 * 40] {
            for kind in [None, Some(Kind::Raw), Some(Kind::Zstd)] {
                let plain = text(len);
                assert_eq!(decoded(&coded(&plain, kind)).unwrap(), plain);
            }
        }
    }

    #[test]
    fn no_flipped_bit_gives_wrong_bytes_and_every_cut_is_noticed() {
        let plain = text(5000);
        for (kind, slack) in [(Kind::Raw, false), (Kind::Zstd, true)] {
            let good = coded(&plain, Some(kind));
            for bit in 0..good.len() * 8 {
                // A byte that is ignored when read.
                if bit / 8 == 7 {
                    continue;
                }
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                match decoded(&bad) {
                    Err(_) => {}
                    // zstd has a bit that means nothing.
                    Ok(same) => assert!(slack && same == plain, "bit {bit}"),
                }
            }
        }
        let good = coded(&plain, None);
        for len in 0..good.len() {
            assert!(decoded(&good[..len]).is_err());
        }
        assert!(decoded(&[good.as_slice(), b"x"].concat()).is_err());
    }

    #[test]
    fn headers_survive_their_encoding() {
        let header = Header {
            chunk_size: 1 << 16,
            plain_len: 77,
            model: Some([5; 32]),
        };
        let bytes = header.encode();
        assert_eq!(bytes.len(), FIXED + 32);
        assert_eq!(Header::read(&mut bytes.as_slice()).unwrap(), header);
        let mut newer = bytes;
        newer[4] = 2;
        let error = Header::read(&mut newer.as_slice()).unwrap_err();
        assert!(error.to_string().contains("newer laconicfs"), "{error}");
    }
}
