//! Manual pages and completions: what the definition of the flags says, and
//! [what it does not](text).

mod text;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::{exit, report};
use crate::config::{KEYS, VARIABLE_OF_ETC};
use crate::mount::OPTIONS;

/// Says which manual the pages belong to.
const MANUAL: &str = "laconicfs manual";

#[derive(Args)]
pub struct ManualArgs {
    /// Directory to write the pages into
    dir: PathBuf,
}

#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Writes every page into a directory.
pub fn write(args: &ManualArgs, command: Command) -> Result<()> {
    let dir = &args.dir;
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    for (name, page) in pages(command)? {
        let path = dir.join(name);
        std::fs::write(&path, page).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Prints the completions for a shell.
pub fn complete(args: &CompletionsArgs, mut command: Command) -> Result<()> {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut command, "laconicfs", &mut out);
    report::print(&String::from_utf8_lossy(&out))
}

/// All pages with the names of their files.
fn pages(mut command: Command) -> Result<Vec<(String, Vec<u8>)>> {
    command.build();
    let mut pages = vec![
        ("mount.laconicfs.8".into(), helper_page()?),
        ("laconicfs.toml.5".into(), settings_page()?),
    ];
    command_pages(&command, &mut pages)?;
    Ok(pages)
}

/// The page of a command, and those of the commands below it.
fn command_pages(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let man = Man::new(command.clone())
        .manual(MANUAL)
        .source(concat!("laconicfs ", env!("CARGO_PKG_VERSION")));
    pages.push((man.get_filename(), page(&man, command)?));
    for below in visible(command) {
        command_pages(below, pages)?;
    }
    Ok(())
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|below| !below.is_hide_set() && below.get_name() != "help")
}

fn page(man: &Man, command: &Command) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut out)?;
    }
    let mut roff = Roff::new();
    if visible(command).next().is_some() {
        section(&mut roff, "COMMANDS");
        for below in visible(command) {
            let name = below.get_display_name().unwrap_or(below.get_name());
            let about = below.get_about().map(ToString::to_string);
            entry(&mut roff, &format!("{name}(1)"), &about.unwrap_or_default());
        }
    }
    let root = command.get_name() == "laconicfs";
    let help = command.get_after_help().map(ToString::to_string);
    let mut own_status = root;
    for (title, lines) in sections(&help.unwrap_or_default()) {
        // The root's list of statuses follows below, in words.
        if title == "EXIT STATUS" {
            own_status = true;
            if root {
                continue;
            }
        }
        section(&mut roff, &title);
        verbatim(&mut roff, &lines);
    }
    if root {
        section(&mut roff, "FILES");
        entries(&mut roff, text::FILES);
        section(&mut roff, "ENVIRONMENT");
        entries(&mut roff, text::ENVIRONMENT);
        for key in KEYS
            .iter()
            .filter(|key| key.variable != super::logging::VARIABLE)
        {
            let help = format!("The setting {}: see laconicfs.toml(5).", key.name);
            entry(&mut roff, key.variable, &help);
        }
        section(&mut roff, "EXIT STATUS");
        for (status, meaning) in exit::table() {
            entry(&mut roff, &status.to_string(), meaning);
        }
    } else if visible(command).next().is_none() {
        if !own_status {
            section(&mut roff, "EXIT STATUS");
            paragraph(&mut roff, text::STATUS);
        }
        section(&mut roff, "ENVIRONMENT");
        paragraph(&mut roff, text::SEE_ENVIRONMENT);
    }
    section(&mut roff, "SEE ALSO");
    paragraph(&mut roff, text::SEE_ALSO);
    roff.to_writer(&mut out)?;
    Ok(out)
}

/// laconicfs.toml(5).
fn settings_page() -> Result<Vec<u8>> {
    let mut roff = Roff::new();
    title(&mut roff, "laconicfs.toml", "5");
    section(&mut roff, "NAME");
    paragraph(&mut roff, "laconicfs.toml - settings of laconicfs mounts");
    section(&mut roff, "SYNOPSIS");
    for file in text::SETTINGS_FILES {
        roff.control("PP", []);
        roff.text([italic(*file)]);
    }
    section(&mut roff, "DESCRIPTION");
    paragraphs(&mut roff, text::SETTINGS);
    let mut of = "";
    for key in KEYS {
        if key.section() != of {
            of = key.section();
            section(&mut roff, &format!("[{of}]"));
        }
        roff.control("TP", []);
        roff.text([
            bold(key.key()),
            roman(" = "),
            italic(key.takes),
            roman(match key.default {
                "" => String::new(),
                default => format!(" (default: {default})"),
            }),
        ]);
        roff.text([roman(format!("{} Variable: {}.", key.help, key.variable))]);
    }
    section(&mut roff, "ENVIRONMENT");
    entry(&mut roff, VARIABLE_OF_ETC, text::ETC);
    section(&mut roff, "EXAMPLES");
    verbatim(&mut roff, text::SETTINGS_EXAMPLE);
    section(&mut roff, "SEE ALSO");
    paragraph(&mut roff, text::SEE_ALSO);
    Ok(roff.render().into_bytes())
}

/// mount.laconicfs(8).
fn helper_page() -> Result<Vec<u8>> {
    let mut roff = Roff::new();
    title(&mut roff, "mount.laconicfs", "8");
    section(&mut roff, "NAME");
    paragraph(
        &mut roff,
        "mount.laconicfs - mount a laconicfs store by mount(8) and fstab(5)",
    );
    section(&mut roff, "SYNOPSIS");
    for line in text::HELPER_SYNOPSIS {
        roff.control("PP", []);
        roff.text([roman(*line)]);
    }
    section(&mut roff, "DESCRIPTION");
    paragraphs(&mut roff, text::HELPER);
    section(&mut roff, "OPTIONS");
    entries(&mut roff, OPTIONS);
    section(&mut roff, "FILES");
    entries(&mut roff, text::HELPER_FILES);
    section(&mut roff, "EXIT STATUS");
    for (status, meaning) in exit::HELPER_TABLE {
        entry(&mut roff, &status.to_string(), meaning);
    }
    section(&mut roff, "EXAMPLES");
    verbatim(&mut roff, text::HELPER_EXAMPLE);
    section(&mut roff, "SEE ALSO");
    paragraph(&mut roff, text::SEE_ALSO);
    Ok(roff.render().into_bytes())
}

fn title(roff: &mut Roff, name: &str, number: &str) {
    let source = concat!("laconicfs ", env!("CARGO_PKG_VERSION"));
    roff.control("TH", [name, number, "", source, MANUAL]);
}

fn section(roff: &mut Roff, title: &str) {
    roff.control("SH", [title]);
}

fn paragraph(roff: &mut Roff, text: &str) {
    roff.text([roman(text)]);
}

fn paragraphs(roff: &mut Roff, texts: &[&str]) {
    for (number, text) in texts.iter().enumerate() {
        if number > 0 {
            roff.control("PP", []);
        }
        paragraph(roff, text);
    }
}

fn entry(roff: &mut Roff, head: &str, text: &str) {
    roff.control("TP", []);
    roff.text([bold(head)]);
    roff.text([roman(text)]);
}

fn entries(roff: &mut Roff, entries: &[(&str, &str)]) {
    for (head, text) in entries {
        entry(roff, head, text);
    }
}

/// Lines as they stand.
fn verbatim(roff: &mut Roff, lines: &[impl AsRef<str>]) {
    roff.control("PP", []);
    roff.control("nf", []);
    for line in lines {
        match line.as_ref() {
            "" => roff.control("sp", []),
            line => roff.text([roman(line)]),
        };
    }
    roff.control("fi", []);
}

/// The parts of what `--help` says at its end: under headings such as
/// `Examples:`, indented lines.
fn sections(help: &str) -> Vec<(String, Vec<String>)> {
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    for line in help.lines() {
        match line.strip_suffix(':') {
            Some(heading) if !line.starts_with(' ') => {
                let title = match heading {
                    "Example" => "EXAMPLES".into(),
                    status if status.starts_with("Exit status") => "EXIT STATUS".into(),
                    heading => heading.to_uppercase(),
                };
                sections.push((title, Vec::new()));
            }
            _ => {
                if let Some((_, lines)) = sections.last_mut() {
                    lines.push(line.strip_prefix("  ").unwrap_or(line).into());
                }
            }
        }
    }
    for (_, lines) in &mut sections {
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn all() -> Vec<(String, String)> {
        let pages = pages(crate::cli::Cli::command()).unwrap();
        let text = |(name, page)| (name, String::from_utf8(page).unwrap());
        pages.into_iter().map(text).collect()
    }

    #[test]
    fn every_command_has_a_page_with_examples() {
        let pages = all();
        let named = |name: &str| pages.iter().find(|(other, _)| other == name);
        for name in [
            "laconicfs.1",
            "laconicfs-mount.1",
            "laconicfs-codec-encode.1",
            "laconicfs.toml.5",
            "mount.laconicfs.8",
        ] {
            assert!(named(name).is_some(), "{name}");
        }
        for (name, page) in &pages {
            assert!(page.contains(".TH"), "{name}");
            assert!(page.contains("SEE ALSO"), "{name}");
            let leaf = !page.contains("COMMANDS");
            assert!(
                !leaf || page.contains(".SH EXAMPLES"),
                "{name} teaches nothing"
            );
            assert!(
                !leaf || page.contains("EXIT STATUS") || name.ends_with(".5"),
                "{name}"
            );
        }
        assert!(!pages.iter().any(|(name, _)| name.contains("manual")));
    }

    #[test]
    fn the_pages_hold_every_setting_option_and_status() {
        let pages = all();
        let page = |name: &str| &pages.iter().find(|(other, _)| other == name).unwrap().1;
        for key in KEYS {
            assert!(page("laconicfs.toml.5").contains(key.variable));
            assert!(page("laconicfs.1").contains(key.variable));
        }
        for (option, _) in OPTIONS {
            let first = option.split([',', ' ', '=']).next().unwrap();
            assert!(page("mount.laconicfs.8").contains(first), "{option}");
        }
        for (_, meaning) in exit::table() {
            let start: String = meaning
                .chars()
                .take_while(|c| c.is_alphanumeric())
                .collect();
            assert!(page("laconicfs.1").contains(&start));
        }
    }

    #[test]
    fn help_falls_into_sections() {
        let help = "Options for -o:\n  ro  read only\n\nExamples:\n  a b\n    c\n";
        let expected = vec![
            (
                "OPTIONS FOR -O".to_string(),
                vec!["ro  read only".to_string()],
            ),
            ("EXAMPLES".into(), vec!["a b".into(), "  c".into()]),
        ];
        assert_eq!(sections(help), expected);
    }
}
