use std::io::Write;

use proptest::prelude::*;

use super::*;

const MODEL: &[u8] = include_bytes!("../../tests/golden/model-v1.model");

/// A codec with a small model that knows nothing.
fn codec() -> Codec {
    let model = Model::parse(MODEL.to_vec()).unwrap();
    // Its mixer section is not one.
    let model = Model::parse(model.with_mixer_start(None).unwrap()).unwrap();
    Codec::with_models(vec![Arc::new(model)]).unwrap()
}

fn text(len: usize) -> Vec<u8> {
    let line = |i: usize| format!("{i}: the {} of the {}\n", i * i % 91, i % 13);
    (0..).flat_map(|i| line(i).into_bytes()).take(len).collect()
}

fn kinds() -> impl Iterator<Item = Option<Kind>> {
    std::iter::once(None).chain(Kind::ALL.map(Some))
}

#[test]
fn every_kind_returns_every_byte() {
    let codec = codec();
    let odd: [Vec<u8>; 8] = [
        Vec::new(),
        vec![0],
        vec![0xff],
        b"\xc3\x28 \xa0\xa1 caf\xc3\xa9 \xf0\x9f".to_vec(),
        vec![0; 40_000],
        (0..=255).cycle().take(3000).collect(),
        text(20_000),
        [text(500), vec![0; 500], (0..=255).collect()].concat(),
    ];
    for plain in &odd {
        for kind in kinds() {
            let frame = codec.encode_as(kind, plain).unwrap();
            assert_eq!(
                &codec.decode(&frame, plain.len()).unwrap(),
                plain,
                "{kind:?}"
            );
            assert_eq!(frame, codec.encode_as(kind, plain).unwrap(), "{kind:?}");
        }
        let cold = codec.encode_cold(&[plain]).remove(0).unwrap();
        assert!(cold.len() <= plain.len() + 1);
        assert_eq!(
            &codec.decode(&codec.encode_hot(plain), plain.len()).unwrap(),
            plain
        );
    }
}

#[test]
fn chunks_of_a_model_that_is_not_here_say_so() {
    for kind in [Kind::Mix, Kind::Lm] {
        let frame = codec().encode_as(Some(kind), &text(900)).unwrap();
        let error = Codec::default().decode(&frame, 900).unwrap_err();
        assert!(matches!(error, Error::Model(_)), "{error}");
        let error = Codec::default().encode_as(Some(kind), b"text").unwrap_err();
        assert!(matches!(error, Error::Model(_)), "{error}");
    }
    let model = codec().model().unwrap();
    assert!(Codec::with_models(vec![model.clone(), model]).is_err());
}

#[test]
fn policies_bound_the_choice() {
    let codec = codec();
    let plain = text(4000);
    let coded = |policy| {
        let wanted = Wanted {
            plain: &plain,
            policy,
            model: None,
        };
        codec
            .encode_wanted(&[wanted], &Interrupt::default())
            .remove(0)
            .unwrap()
    };
    let kind = |policy| Kind::of(&coded(policy)).unwrap();
    assert_eq!(kind(Policy::None), Kind::Raw);
    assert_eq!(kind(Policy::Zstd), Kind::Zstd);
    assert!(kind(Policy::Mix) <= Kind::Mix);
    let len = |policy| coded(policy).len();
    assert!(len(Policy::Lm) <= len(Policy::Auto));
    assert!(len(Policy::Auto) <= len(Policy::Mix));
    assert!(len(Policy::Mix) <= len(Policy::Zstd));
    assert!(len(Policy::Zstd) < len(Policy::None));
    let hot = |policy| Kind::of(&codec.encode_hot_for(policy, &plain)).unwrap();
    assert_eq!(hot(Policy::None), Kind::Raw);
    assert_eq!(hot(Policy::Lm), Kind::Zstd);
    // A margin that nobody can reach keeps the model out, except where it is wanted.
    codec.set_margin(100);
    assert!(kind(Policy::Auto) != Kind::Lm);
}

/// Whenever the interrupt comes: the frame, or word that there is none; and the
/// codec is as good as new afterwards.
#[test]
fn coding_can_be_interrupted() {
    let codec = codec();
    let plain = text(30_000);
    for policy in [Policy::Mix, Policy::Lm] {
        let wanted = [Wanted {
            plain: &plain,
            policy,
            model: None,
        }; 2];
        let coded = |interrupt: &Interrupt| codec.encode_wanted(&wanted, interrupt);
        let right = coded(&Interrupt::default()).remove(0).unwrap();
        let raised = Interrupt::default();
        raised.raise();
        assert!(
            (coded(&raised).iter()).all(|coded| matches!(coded, Err(Error::Interrupted))),
            "{policy:?}"
        );
        for delay in 0..12 {
            let interrupt = Interrupt::default();
            let results = std::thread::scope(|scope| {
                let results = scope.spawn(|| coded(&interrupt));
                std::thread::sleep(std::time::Duration::from_millis(1 << delay));
                interrupt.raise();
                results.join().unwrap()
            });
            for result in results {
                match result {
                    Ok(frame) => assert_eq!(frame, right),
                    Err(error) => assert!(matches!(error, Error::Interrupted), "{error}"),
                }
            }
        }
        assert_eq!(coded(&Interrupt::default()).remove(1).unwrap(), right);
    }
}

#[test]
fn models_come_and_go() {
    let one = codec().model().unwrap();
    let other = Model::parse(MODEL.to_vec()).unwrap();
    let id = |model: &Model| model_id(&model.hash());
    let (first, second) = (id(&one), id(&other));
    let codec = Codec::with_models(vec![one.clone()]).unwrap();
    assert!(!codec.add_model(one).unwrap());
    // Its mixer section is not one: a model that cannot be used is no model.
    assert!(codec.add_model(Arc::new(other)).is_err());
    assert_eq!(codec.model_id(), Some(first));
    assert!(codec.set_default_model(first) && !codec.set_default_model(second));
    let frame = codec.encode_as(Some(Kind::Lm), &text(900)).unwrap();
    assert_eq!(model_of(&frame), Some(first));
    assert_eq!(model_of(&codec.encode_hot(b"text")), None);
    let unknown = Wanted {
        plain: b"text, and again text, and again text",
        policy: Policy::Lm,
        model: Some(second),
    };
    let coded = codec.encode_wanted(&[unknown], &Interrupt::default());
    assert!(matches!(coded[..], [Err(Error::Model(_))]));
    codec.remove_model(first);
    assert!(codec.model().is_none());
    assert!(matches!(codec.decode(&frame, 900), Err(Error::Model(_))));
}

#[test]
fn newer_frames_are_refused() {
    for first in [0x10, 0x11, 0x22, 0x23, 0x04, 0x0f, 0xf0, 0xf2, 0xf3] {
        let error = codec().decode(&[first, 1, 2, 3, 4, 5, 6], 3).unwrap_err();
        assert!(matches!(error, Error::NewerFormat { .. }), "{error}");
    }
    assert!(codec().decode(&[], 0).is_err());
}

/// Frames of every version as they were written first.
#[test]
fn golden_frames_decode_for_ever() {
    let codec = codec();
    let plain = text(5000);
    for (kind, version) in VERSIONS {
        let frame = std::fs::read(golden(kind, version)).unwrap();
        assert_eq!(read_first(&frame).unwrap(), (kind, version));
        assert_eq!(
            codec.decode(&frame, plain.len()).unwrap(),
            plain,
            "{kind:?} {version:?}"
        );
        let many = codec.decode_many(&[(&frame, plain.len())]).pop();
        assert_eq!(many.unwrap().unwrap(), plain);
    }
}

/// Every version of every kind that there has been. The last of each kind is
/// what is written today.
const VERSIONS: [(Kind, Version); 6] = [
    (Kind::Raw, Version::V0),
    (Kind::Zstd, Version::V0),
    (Kind::Mix, Version::V0),
    (Kind::Lm, Version::V0),
    (Kind::Mix, Version::V1),
    (Kind::Lm, Version::V1),
];

/// Encoding is a function of bytes, model and version: today's frames are the
/// golden ones. (What zstd writes may change with its release.)
#[test]
fn frames_are_written_as_ever() {
    for (kind, version) in VERSIONS {
        let today = codec().encode_as(Some(kind), &text(5000)).unwrap();
        if kind != Kind::Zstd && read_first(&today).unwrap() == (kind, version) {
            assert_eq!(today, std::fs::read(golden(kind, version)).unwrap());
        }
    }
}

fn golden(kind: Kind, version: Version) -> std::path::PathBuf {
    let name = format!("tests/golden/frame-v{}.{}", version as u8, kind.name());
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
#[ignore = "writes the golden frames of a new version"]
fn write_golden() {
    for kind in [Kind::Mix, Kind::Lm] {
        let frame = codec().encode_as(Some(kind), &text(5000)).unwrap();
        let (_, version) = read_first(&frame).unwrap();
        // Those that are there stay as they are.
        let mut file = std::fs::File::create_new(golden(kind, version)).unwrap();
        file.write_all(&frame).unwrap();
    }
}

/// Many frames at once give what each gives alone, whatever lies beside it:
/// other kinds, other lengths, damage.
#[test]
fn frames_decoded_side_by_side_do_not_disturb_each_other() {
    let codec = codec();
    let lengths = [9000, 0, 1, 12_000, 700, 30_000, 9000, 2, 20_000, 3000];
    let mut frames: Vec<(Vec<u8>, usize)> = Vec::new();
    for (i, &len) in lengths.iter().enumerate() {
        let kind = if i == 4 { Kind::Mix } else { Kind::Lm };
        let plain = text(len + i).split_off(i);
        frames.push((codec.encode_as(Some(kind), &plain).unwrap(), len));
    }
    frames.push((codec.encode_as(Some(Kind::Zstd), &text(900)).unwrap(), 900));
    // Damage: a flipped byte, a wrong length, a cut head, no frame at all, a
    // model that is not here.
    let mut odd = frames[5].clone();
    odd.0[40] ^= 0x55;
    let mut stranger = frames[0].clone();
    stranger.0[1] ^= 1;
    let longer = (frames[3].0.clone(), 12_001);
    let cut = (frames[3].0[..6].to_vec(), 12_000);
    for damaged in [odd, longer, cut, (Vec::new(), 5), stranger] {
        frames.insert(frames.len() / 2, damaged);
    }
    let coded: Vec<Coded> = frames.iter().map(|(f, len)| (f.as_slice(), *len)).collect();
    let show = |plain: Result<Vec<u8>>| plain.map_err(|error| error.to_string());
    let alone: Vec<_> = (coded.iter().map(|(f, len)| show(codec.decode(f, *len)))).collect();
    assert!(alone.iter().filter(|plain| plain.is_err()).count() >= 4);
    for threads in [1, 3] {
        let together: Vec<_> = codec
            .decode_all(threads, &coded)
            .into_iter()
            .map(show)
            .collect();
        assert_eq!(together, alone);
    }
    let together: Vec<_> = codec.decode_many(&coded).into_iter().map(show).collect();
    assert_eq!(together, alone);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_bytes_round_trip(plain in prop::collection::vec(any::<u8>(), 0..3000)) {
        let codec = codec();
        for kind in kinds() {
            let frame = codec.encode_as(kind, &plain).unwrap();
            prop_assert_eq!(&codec.decode(&frame, plain.len()).unwrap(), &plain);
        }
    }

    /// An error, or as many bytes as were asked for: the caller's hash tells.
    #[test]
    fn garbage_ends_in_an_error_or_in_time(
        mut garbage in prop::collection::vec(any::<u8>(), 0..200),
        at in 0..200usize,
        kind in 0..4usize,
        len in 0..5000usize,
    ) {
        let codec = codec();
        let mut frame = codec.encode_as(Some(Kind::ALL[kind]), &text(len)).unwrap();
        let at = at.min(frame.len() - 1);
        let head = frame.split_off(at);
        garbage.iter_mut().zip(&head).for_each(|(g, h)| *g = (*g & 3) ^ h);
        frame.extend(&garbage);
        if let Ok(plain) = codec.decode(&frame, len) {
            prop_assert_eq!(plain.len(), len);
        }
    }
}
