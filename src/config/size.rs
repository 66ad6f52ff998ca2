//! Sizes as people write them: `64k`, `1 MiB`, `65536`.

/// Bytes of a size with an optional binary unit, for clap.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = text[digits.len()..].trim().to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(format!("unknown unit `{unit}`; use k, M or G")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "write a number with a unit, such as 64k".to_string())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".into())
}

/// As one would write it: `256M`.
pub fn show(bytes: u64) -> String {
    let units = [(30, "G"), (20, "M"), (10, "K")];
    let whole = |(shift, _): &(u32, &str)| bytes > 0 && bytes.trailing_zeros() >= *shift;
    match units.into_iter().find(whole) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// The size of a chunk: a power of two from 4 KiB to 16 MiB.
pub fn parse_chunk(text: &str) -> Result<usize, String> {
    let size = parse(text)?;
    if !size.is_power_of_two() || !(4 << 10..=16 << 20).contains(&size) {
        return Err("must be a power of two from 4k to 16M, such as 64k".into());
    }
    usize::try_from(size).map_err(|_| "too large".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_binary() {
        assert_eq!(parse("65536"), Ok(65536));
        assert_eq!(parse("64k"), Ok(65536));
        assert_eq!(parse("1 MiB"), Ok(1 << 20));
        for bad in ["", "k", "x1", "1x", "-1", "1.5k", "99999999999g", "ä"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read() {
        for bytes in [0, 1, 1023, 1024, 1536, 1 << 20, 3 << 30, (1 << 40) + 1] {
            assert_eq!(parse(&show(bytes)), Ok(bytes));
        }
        assert_eq!(show(256 << 20), "256M");
    }

    #[test]
    fn chunks_are_powers_of_two() {
        assert_eq!(parse_chunk("64K"), Ok(65536));
        for bad in ["0", "1k", "48k", "32M"] {
            assert!(parse_chunk(bad).is_err(), "{bad}");
        }
    }
}
