use std::sync::Arc;

use proptest::prelude::*;

use super::tables::hash;
use super::v0::Learned as Older;
use super::*;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::lm::coder::{Cost, Decoder, Encoder};
use crate::lm::vocabulary::tests::small;

const VERSIONS: [Version; 2] = Version::ALL;

fn encode_mix(m: &mut Mixer, version: Version, plain: &[u8]) -> Vec<u8> {
    super::encode_mix(m, version, plain, &Interrupt::default()).unwrap()
}

fn decode_mix(m: &mut Mixer, version: Version, payload: &[u8], len: usize) -> Result<Vec<u8>> {
    super::decode_mix(m, version, payload, len, &Interrupt::default())
}

fn mixer() -> Mixer {
    Mixer::new(MixerStart::Untrained, Arc::new(small()))
}

/// Records of 24 bytes, mostly as the one before.
fn records(n: usize) -> Vec<u8> {
    let record = |i: u32| {
        let mut r = [0u8; 24];
        r[..4].copy_from_slice(&i.to_le_bytes());
        r[8..10].copy_from_slice(&(hash(i, 3) as u16 & 0x0fff).to_le_bytes());
        r[16..20].copy_from_slice(b"\x01abc");
        r
    };
    (0..).flat_map(record).take(n).collect()
}

fn text(n: usize) -> Vec<u8> {
    let line = |i: usize| {
        format!(
            "<row id=\"{i}\">the {} and\tthe, {}</row>\n",
            i * i % 97,
            i % 7
        )
    };
    (0..).flat_map(|i| line(i).into_bytes()).take(n).collect()
}

/// Codes and decodes a chunk; the bytes needed.
fn round_trip(m: &mut Mixer, version: Version, plain: &[u8]) -> usize {
    let payload = encode_mix(m, version, plain);
    assert_eq!(
        decode_mix(m, version, &payload, plain.len()).unwrap(),
        plain
    );
    payload.len()
}

/// A distribution that knows a little: counts by token and step.
fn some_cdf(vocabulary: usize, salt: u32) -> Vec<u32> {
    let mut sum = 0;
    let counts = (0..vocabulary as u32).map(|c| {
        sum += 1 + (hash(c, salt) >> 20);
        sum
    });
    std::iter::once(0).chain(counts).collect()
}

fn with_lanes(
    m: &mut Mixer,
    tokens: &[u32],
    head: &Head,
    live: bool,
    mut step: impl FnMut(&mut Mixer, usize, u32, Option<&[u32]>) -> u32,
) -> Vec<u32> {
    let lanes = head.lanes;
    let lengths: Vec<usize> = head.lengths().collect();
    let starts: Vec<usize> = lengths
        .iter()
        .scan(0, |at, n| {
            *at += n;
            Some(*at - n)
        })
        .collect();
    let mut out = vec![0; tokens.len()];
    m.begin(head, live);
    for s in 0..lengths.iter().copied().max().unwrap_or(0) {
        for l in (0..lanes).filter(|&l| s < lengths[l]) {
            let cdf = live.then(|| some_cdf(m.vocabulary().len(), s as u32 % 5));
            out[starts[l] + s] = step(m, l, tokens[starts[l] + s], cdf.as_deref());
        }
    }
    out
}

#[test]
fn lanes_with_and_without_a_model() {
    let mut m = mixer();
    let plain = text(3000);
    let tokens = m.vocabulary().encode(&plain);
    for version in VERSIONS {
        for (lanes, live) in [(1, true), (3, false), (16, true), (16, false)] {
            let head = Head::new(version, &plain, tokens.len(), lanes);
            let mut e = Encoder::default();
            with_lanes(&mut m, &tokens, &head, live, |m, l, t, cdf| {
                m.code(l, t, cdf, &mut e)
            });
            let bytes = e.finish();
            let mut d = Decoder::new(&bytes);
            let back = with_lanes(&mut m, &tokens, &head, live, |m, l, _, cdf| {
                m.code(l, 0, cdf, &mut d)
            });
            assert_eq!(back, tokens);
            let joined: Vec<u8> = (0..lanes).flat_map(|l| m.text(l)).copied().collect();
            assert_eq!(joined, plain);
            assert_eq!(m.text(lanes), b"");
        }
    }
}

#[test]
fn special_chunks() {
    let mut m = mixer();
    for version in VERSIONS {
        assert_eq!(round_trip(&mut m, version, b""), 1);
        for b in [0, b'a', 0xff] {
            assert!(round_trip(&mut m, version, &[b]) <= 6);
        }
        assert!(round_trip(&mut m, version, &vec![0; 1 << 20]) < 2000);
        let redundant = text(50_000);
        assert!(round_trip(&mut m, version, &redundant) < redundant.len() / 12);
        let noise: Vec<u8> = (0..20_000).map(|i| (hash(i, 5) >> 24) as u8).collect();
        assert!(round_trip(&mut m, version, &noise) < noise.len() * 21 / 20);
    }
}

/// Where bytes come again at one distance, version 1 says so in its head and
/// looks at the record above.
#[test]
fn records_are_found_and_help() {
    let plain = records(30_000);
    assert_eq!(Head::new(Version::V1, &plain, 30_000, 1).stride, 24);
    assert_eq!(Head::new(Version::V0, &plain, 30_000, 1).stride, 0);
    assert_eq!(Head::new(Version::V1, b"", 0, 1).stride, 0);
    let noise: Vec<u8> = (0..20_000).map(|i| (hash(i, 5) >> 24) as u8).collect();
    assert_eq!(Head::new(Version::V1, &noise, 20_000, 1).stride, 0);
    let mut m = mixer();
    let [old, new] = VERSIONS.map(|version| round_trip(&mut m, version, &plain));
    assert!(new < old * 9 / 10, "{new} is not much less than {old}");
}

/// A match goes on behind what differed: text that comes again with one token
/// in twenty changed.
#[test]
fn matches_recover() {
    let mut plain: Vec<u8> = (0..12_000).map(|i| (hash(i, 5) >> 24) as u8).collect();
    let mut again = plain.clone();
    again.iter_mut().step_by(20).for_each(|b| *b ^= 0x55);
    plain.extend(again);
    let mut m = mixer();
    let [old, new] = VERSIONS.map(|version| round_trip(&mut m, version, &plain));
    assert!(new < old * 95 / 100, "{new} is not much less than {old}");
}

/// A chunk costs the same whatever was coded before it.
#[test]
fn chunks_are_independent() {
    let (mut a, mut b) = (mixer(), mixer());
    for (n, version) in [9000, 100, 5000].into_iter().zip(VERSIONS.iter().cycle()) {
        round_trip(&mut a, *version, &text(n));
        round_trip(&mut a, *version, &records(n));
    }
    for version in VERSIONS {
        assert_eq!(
            encode_mix(&mut a, version, &text(7000)),
            encode_mix(&mut b, version, &text(7000))
        );
    }
}

/// Beside a model, too, with odds at both bounds.
#[test]
fn every_width_gives_the_same_bits() {
    let plain = [text(20_000), records(5000)].concat();
    for version in VERSIONS {
        let mut payloads = Width::all().into_iter().map(|width| {
            let mut m = mixer();
            m.set_width(width);
            let mut out = encode_mix(&mut m, version, &plain);
            let tokens = m.vocabulary().encode(&plain);
            let head = Head::new(version, &plain, tokens.len(), 5);
            let mut e = Encoder::default();
            with_lanes(&mut m, &tokens, &head, true, |m, l, t, cdf| {
                m.code(l, t, cdf, &mut e)
            });
            out.extend(e.finish());
            out
        });
        let spec = payloads.next().unwrap();
        if payloads.len() == 0 {
            eprintln!("skipped: this CPU has no wider registers");
        }
        for p in payloads {
            assert!(p == spec);
        }
    }
}

/// Formats are promises: these payloads must come out, and decode, for ever.
#[test]
fn golden_payloads() {
    let mut m = mixer();
    let noise: Vec<u8> = (0..4000).map(|i| (hash(i, 9) >> 26) as u8).collect();
    let last = b"the mixer and the mixed, the end\n";
    let digest = |payload: Vec<u8>| blake3::hash(&payload).to_hex()[..16].to_string();
    for (version, golden) in VERSIONS.into_iter().zip(GOLDEN) {
        let mut beside = Encoder::default();
        let tokens = m.vocabulary().encode(&text(5000));
        let head = Head::new(version, &text(5000), tokens.len(), 7);
        with_lanes(&mut m, &tokens, &head, true, |m, l, t, cdf| {
            m.code(l, t, cdf, &mut beside)
        });
        let found = [
            digest(encode_mix(&mut m, version, &text(10_000))),
            digest(encode_mix(&mut m, version, &noise)),
            digest(encode_mix(&mut m, version, &records(6000))),
            digest(beside.finish()),
            to_hex(&encode_mix(&mut m, version, last)),
        ];
        assert_eq!(found, golden, "{version:?}");
        assert_eq!(
            decode_mix(&mut m, version, &hex(golden[4]), last.len()).unwrap(),
            last
        );
    }
}

const GOLDEN: [[&str; 5]; 2] = [
    [
        "dd980772d871a451",
        "52fad4809d65c134",
        "8c403f7b37e40207",
        "a97243555614004a",
        "1401be14cdef38f2c6c74aa47a97beceea71e5d830",
    ],
    [
        "ce3211b46cd53a56",
        "fb2dfe50c8f7f1f7",
        "da2bf5aa034b9190",
        "f8b7fc7ef6ec2bd2",
        "14010ebe144b2a087558cc83bfa2c9999b0912d3fa771a",
    ],
];

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn hex(s: &str) -> Vec<u8> {
    s.as_bytes()
        .chunks(2)
        .map(|h| u8::from_str_radix(std::str::from_utf8(h).unwrap(), 16).unwrap())
        .collect()
}

/// The bits of a text in one lane, without a model.
fn bits(m: &mut Mixer, version: Version, tokens: &[u32]) -> f64 {
    m.begin(&Head::new(version, b"", tokens.len(), 1), false);
    let mut cost = Cost::default();
    for &t in tokens {
        m.code(0, t, None, &mut cost);
    }
    cost.bits
}

#[test]
fn starts_come_back() {
    let mut m = mixer();
    let tokens = m.vocabulary().encode(&text(4000));
    let cold = bits(&mut m, Version::V1, &tokens);
    let start = MixerStart::V1(Arc::new(Start {
        blind: m.learned_mut().clone(),
        live: Newest::untrained(),
    }));
    let bytes = start.to_bytes().unwrap();
    let read = MixerStart::from_bytes(&bytes).unwrap();
    assert_eq!(read.version(), Version::V1);
    assert_eq!(read.to_bytes().unwrap(), bytes, "rounding is done once");

    let mut warm_mixer = Mixer::new(read, m.vocabulary().clone());
    let warm = bits(&mut warm_mixer, Version::V1, &tokens);
    assert!(warm < 0.8 * cold, "{warm} is not much less than {cold}");
    // The start is of version 1 alone.
    assert_eq!(
        bits(&mut warm_mixer, Version::V0, &tokens),
        bits(&mut m, Version::V0, &tokens)
    );

    for bad in [
        &b""[..],
        b"mix\x03",
        b"mix\x02",
        b"mix\x01",
        b"mix\x01garbage",
        &bytes[..bytes.len() - 1],
    ] {
        assert!(
            matches!(MixerStart::from_bytes(bad), Err(Error::Model(_))),
            "{:?}",
            &bad[..bad.len().min(8)]
        );
    }
}

/// The stored form, which rounds, does not change the sign of a weight.
#[test]
fn weights_at_their_bound_stay_there() {
    let mut most = Newest::untrained();
    let is_weight = |dropped| dropped == start::WEIGHTS;
    most.visit(&mut |v, dropped| if is_weight(dropped) { 32767 } else { v });
    let start = MixerStart::V1(Arc::new(Start {
        blind: most,
        live: Newest::untrained(),
    }));
    let read = MixerStart::from_bytes(&start.to_bytes().unwrap()).unwrap();
    let mut weights = 0;
    read.v1().blind.clone().visit(&mut |v, dropped| {
        if is_weight(dropped) {
            assert!((32752..=32767).contains(&v), "{v}");
            weights += 1;
        }
        v
    });
    assert_eq!(weights, 4720 * 64 + 472 * 6);
}

/// A section of version 0 alone, as models had it: its chunks are still read
/// with it, and new ones are coded with it as well.
#[test]
fn a_start_of_version_0_keeps_its_meaning() {
    let mut m = mixer();
    let tokens = m.vocabulary().encode(&text(4000));
    let untrained = VERSIONS.map(|version| bits(&mut m, version, &tokens));
    let mut blind = Older::untrained();
    blind.visit(&mut |v, dropped| v + (i32::from(dropped == start::WEIGHTS) << 9));
    let old = MixerStart::V0(Arc::new(Start {
        blind,
        live: Older::untrained(),
    }));
    let bytes = old.to_bytes().unwrap();
    assert_eq!(&bytes[..4], b"mix\x01");
    let read = MixerStart::from_bytes(&bytes).unwrap();
    assert_eq!(read.version(), Version::V0);
    let mut m = Mixer::new(read, m.vocabulary().clone());
    assert_eq!(m.newest(), Version::V0);
    let started = VERSIONS.map(|version| bits(&mut m, version, &tokens));
    assert_ne!(started[0], untrained[0]);
    assert_eq!(started[1], untrained[1]);
}

/// A way is the odds along the path of its token.
#[test]
fn ways_are_as_their_distributions() {
    let mut m = mixer();
    let tokens = m.vocabulary().encode(&text(500));
    let (v, depth) = (m.vocabulary().len(), m.vocabulary().depth() as usize);
    for version in VERSIONS {
        let head = Head::new(version, b"", tokens.len(), 1);
        let mut costs = [Cost::default(), Cost::default()];
        for (i, cost) in costs.iter_mut().enumerate() {
            m.begin(&head, true);
            for (s, &t) in tokens.iter().enumerate() {
                let cdf = some_cdf(v, s as u32 % 3);
                match i {
                    0 => m.code(0, t, Some(&cdf), cost),
                    _ => m.code_with(0, t, &Way::new(&cdf, t, depth), cost),
                };
            }
        }
        assert_eq!(costs[0].bits, costs[1].bits);
    }
}

#[test]
fn malformed_payloads_are_errors() {
    let mut m = mixer();
    let plain = text(300);
    let refused = |m: &mut Mixer, version, payload: &[u8], len| {
        let result = decode_mix(m, version, payload, len);
        assert!(
            matches!(result, Err(Error::Corrupt(_))),
            "{version:?} {payload:?}"
        );
    };
    for version in VERSIONS {
        let good = encode_mix(&mut m, version, &plain);
        for (payload, len) in [
            (&[][..], 0),
            (&[0, 0], 0),
            (&[0], 1),
            (&[1], 1),
            (&[1, 0], 1),
            (&[1, 2], 1),
            (&[5, 1], 4),
            (&[0x81, 0, 1], 9),
            (&[0xff; 12], 1 << 20),
            (&[65, 65], 65),
            (&good, plain.len() - 1),
            (&good, plain.len() + 1),
        ] {
            refused(&mut m, version, payload, len);
        }
    }
    // Without a stride, with one of 2049 bytes, with one that is too long.
    for payload in [&[1, 1][..], &[1, 1, 0x81, 16], &[1, 1, 0x80, 0]] {
        refused(&mut m, Version::V1, payload, 1);
    }
}

fn versions() -> impl Strategy<Value = Version> {
    prop::sample::select(VERSIONS.to_vec())
}

/// Bytes of any kind, and some that come again at a distance.
fn chunks() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), Just(0), Just(b'e'), Just(b'\n')];
    let mixed = prop::collection::vec(byte, 0..3000);
    let part = prop::collection::vec(any::<u8>(), 1..60);
    let records = (part, 1usize..80, any::<u8>()).prop_map(|(part, times, salt)| {
        let mut all = part.repeat(times);
        all.iter_mut().step_by(7).for_each(|b| *b ^= salt & 3);
        all
    });
    prop_oneof![mixed, records]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_come_back(plain in chunks(), version in versions()) {
        round_trip(&mut mixer(), version, &plain);
    }

    /// A mixer whose learned numbers are all at their bounds or anything
    /// between, beside a model that is as sure as can be: encoder and decoder
    /// still agree, in every width.
    #[test]
    fn any_start_decodes_what_it_encodes(plain in chunks(), salt: u32, lanes in 1usize..20, live: bool) {
        let mut next = salt;
        let mut wild = || {
            let mut learned = Newest::untrained();
            learned.visit(&mut |_, dropped| {
                next = hash(next, 11);
                let v = match next & 3 {
                    0 => 0xffff,
                    1 => 0,
                    _ => (next >> 16) as i32,
                };
                if dropped == start::WEIGHTS { v - 32768 } else { v }
            });
            learned
        };
        let start = MixerStart::V1(Arc::new(Start { blind: wild(), live: wild() }));
        let vocabulary = Arc::new(small());
        let tokens = vocabulary.encode(&plain);
        prop_assume!(!tokens.is_empty());
        let head = Head::new(Version::V1, &plain, tokens.len(), lanes.min(tokens.len()));
        let mut first: Option<Vec<u8>> = None;
        for width in Width::all() {
            let mut m = Mixer::new(start.clone(), vocabulary.clone());
            m.set_width(width);
            let mut e = Encoder::default();
            with_lanes(&mut m, &tokens, &head, live, |m, l, t, cdf| m.code(l, t, cdf, &mut e));
            let bytes = e.finish();
            prop_assert_eq!(first.get_or_insert_with(|| bytes.clone()), &bytes);
            let mut d = Decoder::new(&bytes);
            let back = with_lanes(&mut m, &tokens, &head, live, |m, l, _, cdf| m.code(l, 0, cdf, &mut d));
            prop_assert_eq!(&back, &tokens);
        }
    }

    #[test]
    fn garbage_gives_an_error_or_bytes_of_the_length(mut payload: Vec<u8>, len in 0usize..400, version in versions()) {
        let mut m = mixer();
        if let Ok(plain) = decode_mix(&mut m, version, &payload, len) {
            prop_assert_eq!(plain.len(), len);
        }
        payload.splice(..0, [60, 3, 7]);
        if let Ok(plain) = decode_mix(&mut m, version, &payload, len) {
            prop_assert_eq!(plain.len(), len);
        }
    }

    #[test]
    fn damage_never_panics(at in 0usize..400, with: u8, version in versions()) {
        let mut m = mixer();
        let plain = text(900);
        let mut payload = encode_mix(&mut m, version, &plain);
        let at = at % payload.len();
        payload[at] ^= with;
        if let Ok(back) = decode_mix(&mut m, version, &payload, plain.len()) {
            prop_assert_eq!(back.len(), plain.len());
        }
    }
}
