//! `laconicfs config`: what is in force, and from where.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;

use super::locate::{self, Found};
use super::report::{self, Table};
use crate::config::{self, KEYS, Key, Setting};
use crate::control::Ask;

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Show every setting that is in force, and where it comes from
    #[command(
        long_about = "Show every setting that is in force, and where it comes from.\n\n\
            For a store that is mounted, what its daemon goes by; for one that is not, what a \
            mount would go by. Without a store, what holds for all. Of several values the first \
            of these counts: a flag, the environment, STORE/laconicfs.toml, \
            /etc/laconicfs/NAME.toml (NAME is the last component of the store's path, or what \
            mount --name says), /etc/laconicfs.toml, the default.",
        after_help = "Examples:\n  \
            laconicfs config show\n  \
            laconicfs config show ~/notes\n  \
            laconicfs config show --json /srv/logs.store"
    )]
    Show {
        /// A mount point, or a store
        #[arg(value_name = "DIR|STORE")]
        path: Option<PathBuf>,
        /// Look for /etc/laconicfs/NAME.toml [default: last component of STORE]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Look for errors in a configuration file
    #[command(
        long_about = "Read a configuration file and say what is wrong in it: unknown sections \
            and settings, and values that cannot be.",
        after_help = "Example:\n  laconicfs config check /etc/laconicfs/notes.toml"
    )]
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print a configuration file with every setting, explained
    #[command(
        long_about = "Print a configuration file that holds every setting at its default, \
            commented out and explained: a file to start from.",
        after_help = "Example:\n  laconicfs config example > ~/notes.store/laconicfs.toml"
    )]
    Example,
}

#[derive(Serialize)]
struct Checked {
    file: PathBuf,
    settings: usize,
}

pub fn run(command: &ConfigCommand, json: bool) -> Result<()> {
    match command {
        ConfigCommand::Show { path, name } => {
            let settings = match path {
                None => config::load(None, name.as_deref(), &[])?.settings(),
                Some(path) => match locate::find(path)? {
                    Found::Open(mut open) => open.ask_for(Ask::Config)?,
                    Found::Closed(_) => {
                        let store = locate::store(path)?;
                        crate::store::Superblock::read(&store)?;
                        config::load(Some(&store), name.as_deref(), &[])?.settings()
                    }
                },
            };
            report::emit(json, &settings, || human(&settings))
        }
        ConfigCommand::Check { file } => {
            let checked = Checked {
                file: file.clone(),
                settings: config::check_file(file)?,
            };
            report::emit(json, &checked, || {
                format!(
                    "{}: {} settings, all right\n",
                    file.display(),
                    checked.settings
                )
            })
        }
        ConfigCommand::Example => report::emit(json, &defaults(), example),
    }
}

fn human(settings: &[Setting]) -> String {
    let mut table = Table::left(&["setting", "value", "from"]);
    for setting in settings {
        table.row(vec![
            setting.key.clone(),
            setting.value.clone(),
            setting.from.clone(),
        ]);
    }
    table.to_string()
}

fn defaults() -> Vec<Setting> {
    config::Loaded::default().settings()
}

/// The example file: all comments, so that it changes nothing.
pub fn example() -> String {
    let mut out = String::from(
        "# Settings of laconicfs: see laconicfs.toml(5).\n\
         #\n\
         # Here as STORE/laconicfs.toml, /etc/laconicfs/NAME.toml or /etc/laconicfs.toml; the\n\
         # first of these that has a setting counts. `laconicfs config show STORE` shows what\n\
         # is in force.\n",
    );
    let mut section = "";
    for key in KEYS {
        if key.section() != section {
            section = key.section();
            out.push_str(&format!("\n[{section}]\n"));
        }
        out.push('\n');
        for line in wrap(key.help, 90) {
            out.push_str(&format!("# {line}\n"));
        }
        out.push_str(&format!("#{} = {}\n", key.key(), literal(key)));
    }
    out
}

/// A default as TOML.
fn literal(key: &Key) -> String {
    match key.default.parse::<u64>() {
        Ok(number) => number.to_string(),
        Err(_) => format!("{:?}", key.default),
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_holds_every_setting_and_changes_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("laconicfs.toml");
        std::fs::write(&path, example()).unwrap();
        assert_eq!(config::check_file(&path).unwrap(), 0);
        let all: String = example()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        std::fs::write(&path, all).unwrap();
        assert_eq!(config::check_file(&path).unwrap(), KEYS.len());
    }
}
