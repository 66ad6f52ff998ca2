//! Progress bars of long work, on standard error and only where that is a
//! terminal (indicatif sees to it).

use indicatif::{ProgressBar, ProgressStyle};

use crate::tier::{DrainProgress, RecodeProgress};

const TEMPLATE: &str =
    "{msg:12} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";

/// A bar that counts bytes.
pub fn bytes(what: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(TEMPLATE)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    ProgressBar::new(total)
        .with_style(style)
        .with_message(what.to_string())
}

/// A bar that counts rows, nobody knows of how many.
pub fn rows(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:12} {spinner} {human_pos} rows {per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner()
        .with_style(style)
        .with_message(what.to_string())
}

/// Counts bytes without knowing how many there will be.
pub fn count_bytes(what: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg:12} {spinner} {binary_bytes} {binary_bytes_per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::no_length()
        .with_style(style)
        .with_message(what.to_string())
}

/// Shows how far a drain has come. More may come to wait while it runs.
pub fn drain(bar: &ProgressBar, progress: &DrainProgress) {
    bar.set_length(progress.plain_total.max(progress.plain_done));
    bar.set_position(progress.plain_done);
}

/// Shows how far coding again has come.
pub fn recode(bar: &ProgressBar, progress: &RecodeProgress) {
    bar.set_length(progress.plain_total.max(progress.plain_done));
    bar.set_position(progress.plain_done);
}
