//! A store as a whole, for a report: by codec and type of file, how well files
//! were coded, and what could still be gained.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Coded, Count, Sizes, Step, Target, walk};
use crate::codec::Policy;
use crate::error::Result;
use crate::volume::{FileType, Volume};

/// Types that get a name of their own; the others are summed up.
const TYPES: usize = 12;

/// Ratios are counted in steps of this many per cent; the last one holds what
/// did not shrink.
pub const STEP: u64 = 5;

/// Steps of a distribution of ratios.
pub const STEPS: usize = 100 / STEP as usize + 1;

/// Files with one ending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// In lower case, without the dot; empty for files without one.
    pub ending: String,
    /// It stands for all endings that have no line of their own.
    pub others: bool,
    #[serde(flatten)]
    pub sizes: Sizes,
}

/// Files whose frames take this part of their plain bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ratio {
    /// From so many per cent on, up to the next step.
    pub from: u64,
    pub files: u64,
    pub plain: u64,
}

/// What the files of a store add up to. All sizes are bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    pub total: Sizes,
    pub coded: Vec<Coded>,
    pub kinds: Vec<Kind>,
    pub ratios: Vec<Ratio>,
    /// Coded chunks that a policy keeps from the smallest coding: plain bytes
    /// and frames.
    pub held_plain: u64,
    pub held_stored: u64,
}

/// Looks at every file.
pub fn survey(volume: &Volume, go_on: &mut dyn FnMut(&Sizes) -> bool) -> Result<Survey> {
    let mut count = Count::new(volume.tier());
    let mut kinds = BTreeMap::<String, Sizes>::new();
    let mut ratios: Vec<Ratio> = (0..STEPS as u64)
        .map(|step| Ratio {
            from: step * STEP,
            ..Ratio::default()
        })
        .collect();
    walk(
        volume,
        &Target::whole(Path::new("/")),
        &mut |path, _, attr, step| {
            if matches!(step, Step::File) && attr.file_type == FileType::Regular {
                let sizes = count.file(attr)?;
                kinds.entry(ending(path)).or_default().add(&sizes);
                if let Some(per_cent) = (sizes.stored * 100).checked_div(sizes.plain) {
                    let ratio = &mut ratios[((per_cent / STEP) as usize).min(STEPS - 1)];
                    ratio.files += 1;
                    ratio.plain += sizes.plain;
                }
            }
            Ok(go_on(&count.total))
        },
    )?;
    Ok(Survey {
        total: count.total,
        held_plain: count.held.0,
        held_stored: count.held.1,
        coded: count.coded.into_values().collect(),
        kinds: largest(kinds),
        ratios,
    })
}

/// What follows the last dot of a name, if that can be an ending.
fn ending(path: &Path) -> String {
    let ending = path.extension().and_then(|ending| ending.to_str());
    match ending {
        Some(text) if text.len() <= 8 && text.chars().all(|c| c.is_ascii_alphanumeric()) => {
            text.to_ascii_lowercase()
        }
        _ => String::new(),
    }
}

/// The endings that hold most, and the rest as one.
fn largest(kinds: BTreeMap<String, Sizes>) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = kinds
        .into_iter()
        .map(|(ending, sizes)| Kind {
            ending,
            others: false,
            sizes,
        })
        .collect();
    kinds.sort_by(|a, b| {
        b.sizes
            .plain
            .cmp(&a.sizes.plain)
            .then(a.ending.cmp(&b.ending))
    });
    if kinds.len() > TYPES {
        let rest = kinds.split_off(TYPES - 1);
        let mut others = Kind {
            others: true,
            ..Kind::default()
        };
        rest.iter().for_each(|kind| others.sizes.add(&kind.sizes));
        kinds.push(others);
    }
    kinds
}

/// Whether a policy may keep chunks larger than they need be.
pub(super) fn holds_back(policy: Policy) -> bool {
    policy >= Policy::Mix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_short_words() {
        for (name, expected) in [
            ("a/b.RS", "rs"),
            ("x.tar.gz", "gz"),
            ("Makefile", ""),
            (".profile", ""),
            ("a.b c", ""),
            ("a.verylongone", ""),
            ("mail.2024", "2024"),
        ] {
            assert_eq!(ending(Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn small_types_are_summed_up() {
        let sizes = |plain| Sizes {
            files: 1,
            plain,
            ..Sizes::default()
        };
        let kinds = (0..20).map(|n| (format!("e{n:02}"), sizes(100 - n)));
        let kinds = largest(kinds.collect());
        assert_eq!(kinds.len(), TYPES);
        assert_eq!(kinds[0].ending, "e00");
        let last = &kinds[TYPES - 1];
        assert!(last.others);
        assert_eq!((last.sizes.files, last.sizes.plain), (9, (81..=89).sum()));
    }
}
