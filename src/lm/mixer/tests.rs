use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::error::Error;
use crate::lm::coder::{Cost, Decoder, Encoder};
use crate::lm::vocabulary::tests::small;

fn mixer() -> Mixer {
    Mixer::new(Arc::new(MixerStart::untrained()), Arc::new(small()))
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
fn round_trip(m: &mut Mixer, plain: &[u8]) -> usize {
    let payload = encode_mix(m, plain);
    assert_eq!(decode_mix(m, &payload, plain.len()).unwrap(), plain);
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
    lanes: usize,
    live: bool,
    mut step: impl FnMut(&mut Mixer, usize, u32, Option<&[u32]>) -> u32,
) -> Vec<u32> {
    let lengths: Vec<usize> = lane_lengths(tokens.len(), lanes).collect();
    let starts: Vec<usize> = lengths
        .iter()
        .scan(0, |at, n| {
            *at += n;
            Some(*at - n)
        })
        .collect();
    let mut out = vec![0; tokens.len()];
    m.begin(lanes, tokens.len(), live);
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
    let tokens = m.vocabulary().encode(&text(3000));
    for (lanes, live) in [(1, true), (3, false), (16, true), (16, false)] {
        let mut e = Encoder::default();
        with_lanes(&mut m, &tokens, lanes, live, |m, l, t, cdf| {
            m.code(l, t, cdf, &mut e)
        });
        let bytes = e.finish();
        let mut d = Decoder::new(&bytes);
        let back = with_lanes(&mut m, &tokens, lanes, live, |m, l, _, cdf| {
            m.code(l, 0, cdf, &mut d)
        });
        assert_eq!(back, tokens);
        let joined: Vec<u8> = (0..lanes).flat_map(|l| m.text(l)).copied().collect();
        assert_eq!(joined, text(3000));
        assert_eq!(m.text(lanes), b"");
    }
}

#[test]
fn special_chunks() {
    let mut m = mixer();
    assert_eq!(round_trip(&mut m, b""), 1);
    for b in [0, b'a', 0xff] {
        assert!(round_trip(&mut m, &[b]) <= 5);
    }
    assert!(round_trip(&mut m, &vec![0; 1 << 20]) < 2000);
    let redundant = text(50_000);
    assert!(round_trip(&mut m, &redundant) < redundant.len() / 12);
    let noise: Vec<u8> = (0..20_000).map(|i| (hash(i, 5) >> 24) as u8).collect();
    assert!(round_trip(&mut m, &noise) < noise.len() * 21 / 20);
}

/// A chunk costs the same whatever was coded before it.
#[test]
fn chunks_are_independent() {
    let (mut a, mut b) = (mixer(), mixer());
    for n in [9000, 100, 5000] {
        round_trip(&mut a, &text(n));
    }
    assert_eq!(
        encode_mix(&mut a, &text(7000)),
        encode_mix(&mut b, &text(7000))
    );
}

#[test]
fn every_width_gives_the_same_bits() {
    let plain = text(20_000);
    let mut payloads = Width::all().into_iter().map(|width| {
        let mut m = mixer();
        m.set_width(width);
        encode_mix(&mut m, &plain)
    });
    let spec = payloads.next().unwrap();
    if payloads.len() == 0 {
        eprintln!("skipped: this CPU has no wider registers");
    }
    for p in payloads {
        assert!(p == spec);
    }
}

/// Formats are promises: these payloads must come out, and decode, for ever.
#[test]
fn golden_payloads() {
    let mut m = mixer();
    let noise: Vec<u8> = (0..4000).map(|i| (hash(i, 9) >> 26) as u8).collect();
    let last = b"the mixer and the mixed, the end\n";
    let digest = |payload: Vec<u8>| blake3::hash(&payload).to_hex()[..16].to_string();
    let found = [
        digest(encode_mix(&mut m, &text(10_000))),
        digest(encode_mix(&mut m, &noise)),
        to_hex(&encode_mix(&mut m, last)),
    ];
    assert_eq!(found, GOLDEN);
    assert_eq!(
        decode_mix(&mut m, &hex(GOLDEN[2]), last.len()).unwrap(),
        last
    );
}

const GOLDEN: [&str; 3] = [
    "dd980772d871a451",
    "52fad4809d65c134",
    "1401be14cdef38f2c6c74aa47a97beceea71e5d830",
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

#[test]
fn starts_come_back() {
    let mut m = mixer();
    let tokens = m.vocabulary().encode(&text(4000));
    m.begin(1, tokens.len(), false);
    let mut cold = Cost::default();
    for &t in &tokens {
        m.code(0, t, None, &mut cold);
    }
    let start = MixerStart {
        blind: m.learned_mut().clone(),
        live: Learned::untrained(),
    };
    let bytes = start.to_bytes().unwrap();
    let read = MixerStart::from_bytes(&bytes).unwrap();
    assert!(read.live == start.live);
    assert!(
        MixerStart::from_bytes(&read.to_bytes().unwrap()).unwrap() == read,
        "rounding is done once"
    );

    let mut warm_mixer = Mixer::new(Arc::new(read), m.vocabulary().clone());
    warm_mixer.begin(1, tokens.len(), false);
    let mut warm = Cost::default();
    for &t in &tokens {
        warm_mixer.code(0, t, None, &mut warm);
    }
    assert!(
        warm.bits < 0.8 * cold.bits,
        "{} is not much less than {}",
        warm.bits,
        cold.bits
    );

    for bad in [
        &b""[..],
        b"mix\x02",
        b"mix\x01",
        b"mix\x01garbage",
        &bytes[..bytes.len() - 1],
    ] {
        assert!(matches!(MixerStart::from_bytes(bad), Err(Error::Model(_))));
    }
}

/// A way is the odds along the path of its token.
#[test]
fn ways_are_as_their_distributions() {
    let mut m = mixer();
    let tokens = m.vocabulary().encode(&text(500));
    let (v, depth) = (m.vocabulary().len(), m.vocabulary().depth() as usize);
    let mut costs = [Cost::default(), Cost::default()];
    for (i, cost) in costs.iter_mut().enumerate() {
        m.begin(1, tokens.len(), true);
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

#[test]
fn malformed_payloads_are_errors() {
    let mut m = mixer();
    let plain = text(300);
    let good = encode_mix(&mut m, &plain);
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
        assert!(
            matches!(decode_mix(&mut m, payload, len), Err(Error::Corrupt(_))),
            "{payload:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_bytes_come_back(plain in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(b'e'), Just(b'\n')], 0..3000)) {
        round_trip(&mut mixer(), &plain);
    }

    #[test]
    fn garbage_gives_an_error_or_bytes_of_the_length(mut payload: Vec<u8>, len in 0usize..400) {
        let mut m = mixer();
        if let Ok(plain) = decode_mix(&mut m, &payload, len) {
            prop_assert_eq!(plain.len(), len);
        }
        payload.splice(..0, [60, 3]);
        if let Ok(plain) = decode_mix(&mut m, &payload, len) {
            prop_assert_eq!(plain.len(), len);
        }
    }

    #[test]
    fn damage_never_panics(at in 0usize..400, with: u8) {
        let mut m = mixer();
        let plain = text(900);
        let mut payload = encode_mix(&mut m, &plain);
        let at = at % payload.len();
        payload[at] ^= with;
        if let Ok(back) = decode_mix(&mut m, &payload, plain.len()) {
            prop_assert_eq!(back.len(), plain.len());
        }
    }
}
