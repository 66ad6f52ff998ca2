//! The page: one file, without scripts and without anything from elsewhere.

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Gain;
use super::plots::{self, Moment, Pair};
use crate::cli::report::{against, percent, size};
use crate::filesystem::{Day, WholeReport};
use crate::usage::{FileKind, STEP};

/// Colours come as the three that the plots are drawn with.
const STYLE: &str = "
:root { color-scheme: light dark; --page: #fbfaf8; --card: #fff; --ink: #23211e; --soft: #6d675f;
  --rule: #e4dfd7; --weak: #c9bda9; --strong: #2f6f62; }
@media (prefers-color-scheme: dark) { :root { --page: #171614; --card: #211f1c; --ink: #e9e4dc;
  --soft: #a29b90; --rule: #38342f; --weak: #5d564b; --strong: #6fb8a6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0 0 .6rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .9rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .8rem;
  margin: 1.2rem 0; }
.fact, section { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem;
  padding: .8rem 1rem; }
.fact b { display: block; font-size: 1.35rem; font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 1rem; }
section.wide { grid-column: 1 / -1; }
svg { width: 100%; height: auto; display: block; font-family: inherit; }
svg text { fill: var(--ink); font-family: inherit; }
svg [fill='#020202'] { fill: var(--weak); } svg [fill='#030303'] { fill: var(--strong); }
svg [stroke='#010101'] { stroke: var(--ink); } svg [stroke='#020202'] { stroke: var(--weak); }
svg [stroke='#030303'] { stroke: var(--strong); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: .15em; margin: 0 .3em 0 .8em; }
.key:first-child { margin-left: 0; } .weak { background: var(--weak); } .strong { background: var(--strong); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
ul { margin: 0; padding-left: 1.1rem; } li { margin: .3rem 0; }
th { font-weight: 600; color: var(--soft); }
";

/// What a type of file is called.
pub fn kind_name(kind: &FileKind) -> String {
    match (kind.others, kind.ending.as_str()) {
        (true, _) => "others".into(),
        (false, "") => "no ending".into(),
        (false, ending) => format!(".{ending}"),
    }
}

fn plot(svg: Result<String>) -> Result<Markup> {
    Ok(PreEscaped(svg?))
}

fn keys(weak: &str, strong: &str) -> Markup {
    html! {
        p.soft {
            span.key.weak {} (weak)
            span.key.strong {} (strong)
        }
    }
}

/// The whole page.
pub fn page(whole: &WholeReport, gains: &[Gain]) -> Result<String> {
    let stat = &whole.stat;
    let name = match &stat.mounted {
        Some(mounted) => mounted.dir.display().to_string(),
        None => stat.store.display().to_string(),
    };
    let when = jiff::Timestamp::from_second(whole.time)
        .map(|time| time.to_zoned_datetime(jiff::tz::TimeZone::system()))
        .map(|time| time.strftime("%Y-%m-%d %H:%M").to_string())
        .unwrap_or_default();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "laconicfs: " (name) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (name) }
                    p.soft {
                        "laconicfs store, " (when)
                        @if let Some(model) = &stat.model { ", model " (model.name) }
                        ", chunks of " (size(stat.chunk_size))
                    }
                    (facts(whole))
                    div.cards {
                        (by_codec(whole)?)
                        (by_kind(whole)?)
                        (ratios(whole)?)
                        (growth(whole)?)
                        (to_gain(gains))
                        (table(whole))
                    }
                }
            }
        }
    };
    Ok(page.into_string())
}

fn facts(whole: &WholeReport) -> Markup {
    let (stat, total) = (&whole.stat, &whole.survey.total);
    let fact =
        |text: String, about: String| html! { div.fact { b { (text) } span.soft { (about) } } };
    html! {
        div.facts {
            (fact(size(stat.logical), format!("in {} files", stat.files)))
            (fact(
                size(stat.disk.total),
                format!("on disk, {}", against(stat.disk.total, stat.logical, "that")),
            ))
            (fact(percent(total.stored, total.plain), "of plain, chunks alone".into()))
            (fact(size(stat.queue.plain), match &stat.drain.why {
                _ if stat.queue.plain == 0 => "wait to be coded".into(),
                Some(why) => format!("wait to be coded; {why}"),
                None => "wait to be coded".into(),
            }))
            @if stat.damaged > 0 {
                (fact(stat.damaged.to_string(), "damaged chunks: run check --scrub".into()))
            }
        }
    }
}

fn by_codec(whole: &WholeReport) -> Result<Markup> {
    let pairs: Vec<Pair> = whole
        .survey
        .coded
        .iter()
        .map(|coded| Pair {
            name: format!("{} {}", coded.tier, coded.codec),
            whole: coded.plain,
            part: coded.stored,
        })
        .collect();
    Ok(html! {
        section {
            h2 { "Size by tier and codec" }
            (keys("plain", "coded"))
            @if pairs.is_empty() { p.soft { "The store is empty." } }
            @else { (plot(plots::pairs(&pairs))?) }
        }
    })
}

fn by_kind(whole: &WholeReport) -> Result<Markup> {
    let pairs: Vec<Pair> = whole
        .survey
        .kinds
        .iter()
        .map(|kind| Pair {
            name: kind_name(kind),
            whole: kind.sizes.plain,
            part: kind.sizes.stored,
        })
        .collect();
    Ok(html! {
        section {
            h2 { "Size by type of file" }
            (keys("plain", "coded"))
            @if pairs.is_empty() { p.soft { "There are no files." } }
            @else { (plot(plots::pairs(&pairs))?) }
        }
    })
}

fn ratios(whole: &WholeReport) -> Result<Markup> {
    let bars: Vec<(Option<String>, u64)> = whole
        .survey
        .ratios
        .iter()
        .map(|ratio| {
            let named = ratio.from.is_multiple_of(4 * STEP);
            (named.then(|| format!("{} %", ratio.from)), ratio.plain)
        })
        .collect();
    let files: u64 = whole.survey.ratios.iter().map(|ratio| ratio.files).sum();
    Ok(html! {
        section {
            h2 { "How well files were coded" }
            p.soft { "Bytes of files by the part that their chunks take, left is best" }
            @if files == 0 { p.soft { "There are no files." } }
            @else { (plot(plots::bars(&bars))?) }
        }
    })
}

fn growth(whole: &WholeReport) -> Result<Markup> {
    let name = |day: &Day| {
        let seconds = i64::from(day.day) * 86400;
        jiff::Timestamp::from_second(seconds)
            .map(|time| time.to_zoned_datetime(jiff::tz::TimeZone::UTC))
            .map(|time| time.strftime("%b %d").to_string())
            .unwrap_or_default()
    };
    let moments: Vec<Moment> = whole
        .history
        .iter()
        .map(|day| Moment {
            day: day.day,
            name: name(day),
            whole: day.logical,
            part: day.disk,
        })
        .collect();
    Ok(html! {
        section {
            h2 { "Growth" }
            (keys("size of the files", "on disk"))
            @if moments.len() < 2 {
                p.soft {
                    "The store notes once a day what it holds; from the second day on this is a \
                     curve."
                }
            } @else { (plot(plots::lines(&moments))?) }
        }
    })
}

fn to_gain(gains: &[Gain]) -> Markup {
    html! {
        section.wide {
            h2 { "What could still be gained" }
            @if gains.is_empty() { p.soft { "Nothing that is known: everything is coded." } }
            @else {
                ul {
                    @for gain in gains {
                        li {
                            b { "about " (size(gain.bytes)) } ": " (gain.what)
                            p.soft { (gain.how) }
                        }
                    }
                }
            }
        }
    }
}

fn table(whole: &WholeReport) -> Markup {
    html! {
        section.wide {
            h2 { "Types of files" }
            div.scroll {
                table {
                    tr {
                        th { "type" } th { "files" } th { "logical" } th { "coded" }
                        th { "of plain" } th { "waits" }
                    }
                    @for kind in &whole.survey.kinds {
                        tr {
                            td { (kind_name(kind)) }
                            td { (kind.sizes.files) }
                            td { (size(kind.sizes.logical)) }
                            td { (size(kind.sizes.stored)) }
                            td { (percent(kind.sizes.stored, kind.sizes.plain)) }
                            td { (size(kind.sizes.waiting)) }
                        }
                    }
                }
            }
        }
    }
}
