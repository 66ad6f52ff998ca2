//! From files, environment and flags to what is in force.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, KEYS, Key};
use crate::error::{Error, Result};
use crate::mount::MountOptions;

/// The variable that names another directory to look in than `/etc`.
pub const VARIABLE_OF_ETC: &str = "LACONICFS_ETC";

/// Name of the file in a store, and of the general one in `/etc`.
const FILE: &str = "laconicfs.toml";

/// A value given on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The flag as people write it: `--quiet`.
    pub flag: &'static str,
    /// The setting's name; it need not exist.
    pub key: String,
    pub value: String,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Variable(&'static str),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) => write!(f, "the variable {name}"),
            Origin::Flag(flag) => write!(f, "the flag {flag}"),
        }
    }
}

/// What is in force, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    origins: BTreeMap<&'static str, Origin>,
}

/// One setting for reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    pub key: String,
    /// As one would write it.
    pub value: String,
    /// `default`, `FILE:LINE`, `the variable NAME` or `the flag NAME`.
    pub from: String,
}

impl Default for Loaded {
    fn default() -> Self {
        let mut loaded = Loaded {
            config: Config::default(),
            origins: BTreeMap::new(),
        };
        for key in KEYS {
            let set = (key.set)(&mut loaded.config, key.default);
            debug_assert_eq!(set, Ok(()), "the default of {}", key.name);
            loaded.origins.insert(key.name, Origin::Default);
        }
        loaded
    }
}

impl Loaded {
    /// All settings in the order of the manual.
    pub fn settings(&self) -> Vec<Setting> {
        let setting = |key: &Key| Setting {
            key: key.name.into(),
            value: (key.get)(&self.config),
            from: self.origin(key.name).to_string(),
        };
        KEYS.iter().map(setting).collect()
    }

    /// Where the value of a setting comes from.
    pub fn origin(&self, name: &str) -> &Origin {
        self.origins.get(name).unwrap_or(&Origin::Default)
    }

    /// Puts the value of a flag in force.
    pub fn set(&mut self, name: &str, value: &str, flag: &'static str) -> Result<()> {
        let (key, value) = (name.into(), value.into());
        self.flags(&[Flag { flag, key, value }])
    }

    fn put(&mut self, key: &'static Key, value: &str, origin: Origin) -> Result<()> {
        (key.set)(&mut self.config, value).map_err(|said| {
            Error::Config(format!("{origin}: `{value}` for {}: {said}", key.name))
        })?;
        self.origins.insert(key.name, origin);
        Ok(())
    }

    pub(super) fn files(
        &mut self,
        etc: &Path,
        store: Option<&Path>,
        name: Option<&str>,
    ) -> Result<()> {
        self.file(&etc.join(FILE), false)?;
        let own = store
            .and_then(Path::file_name)
            .and_then(|name| name.to_str());
        if let Some(name) = name.or(own) {
            self.file(&etc.join("laconicfs").join(format!("{name}.toml")), false)?;
        }
        match store {
            Some(store) => self.file(&store.join(FILE), true),
            None => Ok(()),
        }
    }

    /// Takes what a file says, if there is one.
    fn file(&mut self, path: &Path, of_store: bool) -> Result<()> {
        match std::fs::read_to_string(path) {
            Ok(text) => self.text(path, &text, of_store).map(|_| ()),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Ok(())
            }
            Err(error) => Err(Error::Config(format!(
                "reading {}: {error}",
                path.display()
            ))),
        }
    }

    /// Takes what the text of a file says; returns how many settings it has.
    pub(super) fn text(&mut self, path: &Path, text: &str, of_store: bool) -> Result<usize> {
        let line = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        let said = |at: usize, what: String| {
            Error::Config(format!("{}:{}: {what}", path.display(), line(at)))
        };
        let document = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            said(at, error.message().replace('\n', "; "))
        })?;
        let mut count = 0;
        for (section, entries) in document.get_ref() {
            let section_at = section.span().start;
            let section = section.get_ref();
            if !KEYS.iter().any(|key| key.section() == section.as_ref()) {
                return Err(said(section_at, unknown_section(section)));
            }
            let DeValue::Table(entries) = entries.get_ref() else {
                return Err(said(
                    section_at,
                    format!("`{section}` is a section: write [{section}]"),
                ));
            };
            for (name, value) in entries {
                let at = name.span().start;
                let name = format!("{section}.{}", name.get_ref());
                let key = Key::named(&name).ok_or_else(|| said(at, unknown(&name)))?;
                let value = plain(value).ok_or_else(|| {
                    said(
                        at,
                        format!("{name} takes a text, a number or a list of texts"),
                    )
                })?;
                if of_store && key.name == "mount.options" && privileged(&value) {
                    return Err(said(
                        at,
                        "the options dev and suid are not taken from the file in a store: give \
                         them on the command line or in /etc"
                            .into(),
                    ));
                }
                let origin = Origin::File {
                    path: path.into(),
                    line: line(at),
                };
                self.put(key, &value, origin)?;
                count += 1;
            }
        }
        Ok(count)
    }

    pub(super) fn environment(
        &mut self,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<()> {
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            if let Some(key) = KEYS.iter().find(|key| key.variable == name) {
                let value = value.to_str().ok_or_else(|| {
                    Error::Config(format!("the variable {name} is not valid UTF-8"))
                })?;
                // Set to nothing is not set, as is the custom.
                if !value.is_empty() {
                    self.put(key, value, Origin::Variable(key.variable))?;
                }
                continue;
            }
            // Others may use names that begin with ours; those that begin with
            // a section of ours are meant for us.
            let meant = KEYS.iter().any(|key| {
                let section = key.section().to_uppercase();
                name.strip_prefix("LACONICFS_")
                    .and_then(|rest| rest.strip_prefix(&section))
                    .is_some_and(|rest| rest.starts_with('_'))
            });
            if meant {
                let known = KEYS.iter().map(|key| key.variable);
                return Err(Error::Config(format!(
                    "the variable {name} is not known{}",
                    perhaps(name, known)
                )));
            }
        }
        Ok(())
    }

    pub(super) fn flags(&mut self, flags: &[Flag]) -> Result<()> {
        for flag in flags {
            let key = Key::named(&flag.key).ok_or_else(|| {
                Error::Config(format!("the flag {}: {}", flag.flag, unknown(&flag.key)))
            })?;
            self.put(key, &flag.value, Origin::Flag(flag.flag))?;
        }
        Ok(())
    }
}

/// What is in force for a store, or for none in particular. `name` stands for
/// the last component of the store's path in `/etc/laconicfs/NAME.toml`.
pub fn load(store: Option<&Path>, name: Option<&str>, flags: &[Flag]) -> Result<Loaded> {
    let etc = std::env::var_os(VARIABLE_OF_ETC);
    let etc = etc.filter(|etc| !etc.is_empty());
    let etc = etc.map_or_else(|| "/etc".into(), PathBuf::from);
    let mut loaded = Loaded::default();
    loaded.files(&etc, store, name)?;
    loaded.environment(std::env::vars_os())?;
    loaded.flags(flags)?;
    Ok(loaded)
}

/// Whether a setting may have this value; says in a phrase what it takes if
/// not.
pub fn check(name: &str, value: &str) -> std::result::Result<(), String> {
    match Key::named(name) {
        Some(key) => (key.set)(&mut Config::default(), value),
        None => Err(unknown(name)),
    }
}

/// Reads one file for its errors; returns how many settings it has.
pub fn check_file(path: &Path) -> Result<usize> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::Config(format!("reading {}: {error}", path.display())))?;
    // A store holds its file beside its superblock.
    let of_store = path.with_file_name("superblock").exists();
    Loaded::default().text(path, &text, of_store)
}

/// A value as text: what people write between quotes, or without.
fn plain(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(yes) => Some(yes.to_string()),
        DeValue::Array(list) => {
            let texts: Option<Vec<&str>> =
                list.iter().map(|item| item.get_ref().as_str()).collect();
            Some(texts?.join(","))
        }
        DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

fn privileged(options: &str) -> bool {
    let mut parsed = MountOptions::default();
    // A wrong list is reported when it is set.
    parsed.parse(options).is_ok() && (parsed.dev || parsed.suid)
}

fn unknown(name: &str) -> String {
    let known = KEYS.iter().map(|key| key.name);
    format!("there is no setting {name}{}", perhaps(name, known))
}

fn unknown_section(name: &str) -> String {
    let known = KEYS.iter().map(|key| key.section());
    format!("there is no section [{name}]{}", perhaps(name, known))
}

/// The nearest of the known names, as a hint.
fn perhaps(name: &str, known: impl Iterator<Item = &'static str>) -> String {
    match known.min_by_key(|other| distance(name, other)) {
        Some(nearest) => format!("; perhaps {nearest}?"),
        None => String::new(),
    }
}

/// Levenshtein's distance: characters to insert, remove or exchange.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let exchanged = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = exchanged.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}
