//! What the owner of a file wants of its chunks.

/// How chunks may be coded. The numbers are part of the format of rows.
///
/// Ordered by what readers pay: of two wishes for one chunk the greater is the
/// one that reads faster.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Policy {
    /// The smallest, where the model must beat the others by a margin.
    #[default]
    Auto = 0,
    /// The smallest, however slow to read.
    Lm = 1,
    /// The smallest that needs no predictions of a model.
    Mix = 2,
    /// zstd at its best, or raw.
    Zstd = 3,
    /// As it is.
    None = 4,
}

impl Policy {
    pub const ALL: [Policy; 5] = [
        Policy::Auto,
        Policy::Lm,
        Policy::Mix,
        Policy::Zstd,
        Policy::None,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Policy::Auto => "auto",
            Policy::Lm => "lm",
            Policy::Mix => "mix",
            Policy::Zstd => "zstd",
            Policy::None => "none",
        }
    }

    pub fn from_name(name: &[u8]) -> Option<Policy> {
        let named = |policy: &Policy| policy.name().as_bytes() == name;
        Self::ALL.into_iter().find(named)
    }

    /// The policy of a number of the format.
    pub fn from_code(code: u8) -> Option<Policy> {
        Self::ALL.into_iter().find(|policy| *policy as u8 == code)
    }

    /// Whether the outcome depends on a model.
    pub fn uses_model(self) -> bool {
        self <= Policy::Mix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_come_back() {
        for (code, policy) in (0..).zip(Policy::ALL) {
            assert_eq!(policy as u8, code);
            assert_eq!(Policy::from_code(code), Some(policy));
            assert_eq!(Policy::from_name(policy.name().as_bytes()), Some(policy));
        }
        assert_eq!(Policy::from_code(5), None);
        for name in ["", "Auto", "auto\n", "lz4"] {
            assert_eq!(Policy::from_name(name.as_bytes()), None, "{name:?}");
        }
    }
}
