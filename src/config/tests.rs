use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;

use super::*;

fn at(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn every_default_is_what_one_would_write() {
    let loaded = Loaded::default();
    for (key, setting) in KEYS.iter().zip(loaded.settings()) {
        let mut again = Config::default();
        (key.set)(&mut again, &setting.value).unwrap();
        assert_eq!((key.get)(&again), setting.value, "{}", key.name);
        let mut config = Config::default();
        (key.set)(&mut config, key.default).unwrap();
        assert_eq!((key.get)(&config), setting.value);
        assert_eq!(setting.from, "default");
    }
}

#[test]
fn defaults_are_those_of_the_library() {
    let config = Loaded::default().config;
    let library = crate::filesystem::Settings::default();
    assert_eq!(config.drain.lm_margin, crate::codec::MARGIN);
    assert_eq!(config.cache.size, library.cache_bytes as u64);
    assert_eq!(config.cache.memory, library.memory);
    let rules = crate::tier::Rules {
        quiet: config.drain.quiet,
        cpu_share: config.drain.cpu_share,
        hours: config.drain.hours,
        max_load: config.drain.max_load,
        min_battery: config.drain.min_battery,
    };
    assert_eq!(rules, library.rules);
}

/// The table in docs/configuration.md, row by row.
#[test]
fn the_document_holds_every_setting_as_it_is() {
    let document = include_str!("../../docs/configuration.md");
    let rows: Vec<&str> = document
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let expected: Vec<String> = KEYS
        .iter()
        .map(|key| {
            let default = match key.default {
                "" => String::new(),
                default => format!("`{default}`"),
            };
            let Key {
                name,
                takes,
                variable,
                help,
                ..
            } = key;
            format!("| `{name}` | {takes} | {default} | `{variable}` | {help} |")
        })
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn names_are_unique_and_sections_are_together() {
    let names: HashSet<_> = KEYS.iter().map(|key| key.name).collect();
    let variables: HashSet<_> = KEYS.iter().map(|key| key.variable).collect();
    assert_eq!((names.len(), variables.len()), (KEYS.len(), KEYS.len()));
    let mut sections: Vec<_> = KEYS.iter().map(|key| key.section()).collect();
    sections.dedup();
    let distinct: HashSet<_> = sections.iter().collect();
    assert_eq!(distinct.len(), sections.len());
    for key in KEYS {
        assert!(!key.key().is_empty() && !key.help.is_empty() && !key.takes.is_empty());
    }
}

#[test]
fn the_nearer_source_wins() {
    let dir = tempfile::tempdir().unwrap();
    let (etc, store) = (dir.path().join("etc"), dir.path().join("notes"));
    at(
        &etc,
        "laconicfs.toml",
        "[drain]\nquiet = 1\nthreads = 1\ncpu_share = 11\nhours = '01:00-02:00'\n[cache]\nsize='1M'",
    );
    at(
        &etc,
        "laconicfs/notes.toml",
        "[drain]\nquiet = 2\nthreads = 2\ncpu_share = 12",
    );
    at(&etc, "laconicfs/other.toml", "[drain]\nthreads = 9");
    at(&store, "laconicfs.toml", "[drain]\nquiet = 3\nthreads = 3");
    let variables = [
        ("LACONICFS_DRAIN_QUIET", "4"),
        ("LACONICFS_DRAIN_HOURS", ""),
        ("LACONICFS_SOMETHING", "x"),
    ];
    let variables = variables.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let flags = [Flag {
        flag: "--quiet",
        key: "drain.quiet".into(),
        value: "5".into(),
    }];

    let mut loaded = Loaded::default();
    loaded.files(&etc, Some(&store), None).unwrap();
    assert_eq!(loaded.config.drain.quiet.as_secs(), 3);
    loaded.environment(variables.into_iter()).unwrap();
    assert_eq!(loaded.config.drain.quiet.as_secs(), 4);
    loaded.flags(&flags).unwrap();
    let drain = &loaded.config.drain;
    assert_eq!(
        (drain.quiet.as_secs(), drain.threads, drain.cpu_share),
        (5, Some(3), 12)
    );
    assert_eq!(drain.hours.to_string(), "01:00-02:00");
    assert_eq!(loaded.config.cache.size, 1 << 20);
    assert_eq!(*loaded.origin("drain.quiet"), Origin::Flag("--quiet"));
    assert!(
        loaded
            .origin("drain.threads")
            .to_string()
            .ends_with("notes/laconicfs.toml:3")
    );
    assert_eq!(*loaded.origin("log.level"), Origin::Default);

    // Under another name.
    let mut loaded = Loaded::default();
    loaded
        .files(&etc, Some(&dir.path().join("none")), Some("other"))
        .unwrap();
    assert_eq!(loaded.config.drain.threads, Some(9));
}

/// What the error of a file with this text says.
#[track_caller]
fn refused(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    at(dir.path(), "x.toml", text);
    check_file(&dir.path().join("x.toml"))
        .unwrap_err()
        .to_string()
}

#[test]
fn what_is_wrong_is_named_by_file_line_and_nearest_name() {
    for (text, line, hint) in [
        ("[drain]\n\nqiuet = 3", 3, "perhaps drain.quiet?"),
        ("[drian]\nquiet = 3", 1, "perhaps drain?"),
        ("\ndrain = 3", 2, "write [drain]"),
        ("[drain]\nquiet = 'soon'", 2, "30s"),
        ("[drain]\nquiet = -1", 2, "30s"),
        ("[drain]\nquiet = 1979-05-27", 2, "a number"),
        ("[drain]\nquiet = [1]", 2, "a number"),
        ("[drain]\nthreads = 'many'", 2, "all"),
        ("[drain]\ncpu_share = 0", 2, "1 to 100"),
        ("[drain]\nhours = '22:00'", 2, "22:00-06:00"),
        ("[drain]\nmax_load = nan", 2, "1.5"),
        ("[drain]\nmin_battery = 101", 2, "1 to 100"),
        ("[metrics]\nlisten = '0.0.0.0:80'", 2, "loopback"),
        ("[metrics]\nlisten = 'here'", 2, "off"),
        ("[log]\nlevel = 'loud'", 2, "warn"),
        ("[mount]\noptions = ['ro', 'nonsense']", 2, "`nonsense`"),
        ("[cache]\nsize = '1x'", 2, "unit"),
        ("[cache]\nmemory = 'much'", 2, "auto"),
        ("[drain]\nlm_margin = 101", 2, "0 to 100"),
        ("[cache]\nsize = 1\nsize = 2", 3, "duplicate"),
        ("[cache", 1, ""),
        ("[cache.size]\nx=1", 1, "a number"),
    ] {
        let said = refused(text);
        assert!(
            said.contains(&format!("x.toml:{line}: ")),
            "{text:?}: {said}"
        );
        assert!(said.contains(hint), "{text:?}: {said}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[test]
fn variables_that_are_meant_for_us_must_be_known() {
    let given = |name: &str, value: &str| {
        let pair = (OsString::from(name), OsString::from(value));
        Loaded::default().environment([pair].into_iter())
    };
    let said = given("LACONICFS_DRAIN_QIUET", "3").unwrap_err().to_string();
    assert!(said.ends_with("perhaps LACONICFS_DRAIN_QUIET?"), "{said}");
    assert!(given("LACONICFS_LOG", "loud").is_err());
    assert!(given("LACONICFS_KERNEL", "scalar").is_ok());
    assert!(given("LACONICFS_DRAINED", "3").is_ok());
}

#[test]
fn a_store_cannot_ask_for_devices_and_set_user_ids() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("laconicfs.toml");
    let text = "[mount]\noptions = 'noatime,suid'";
    assert_eq!(Loaded::default().text(&path, text, false).unwrap(), 1);
    let said = Loaded::default().text(&path, text, true).unwrap_err();
    assert!(said.to_string().contains("dev and suid"), "{said}");
    let harmless = "[mount]\noptions = ['suid', 'nosuid']";
    assert!(Loaded::default().text(&path, harmless, true).is_ok());
}

#[test]
fn times_are_written_as_people_do() {
    for (text, seconds) in [
        ("30", 30),
        ("30s", 30),
        ("1h 30m", 5400),
        ("2 minutes", 120),
        ("0", 0),
    ] {
        assert_eq!(value::duration(text).unwrap().as_secs(), seconds, "{text}");
    }
    for bad in ["", "-3", "-3s", "soon", "1.5.2"] {
        assert!(value::duration(bad).is_err(), "{bad}");
    }
}
