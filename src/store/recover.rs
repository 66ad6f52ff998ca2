//! Opening the database: is it what the journal says, and what if it is not?
//!
//! A database that was closed in order is proved by its seal. After a crash
//! it is proved by the sum of all rows, which each commit notes in it; so a
//! damage that sled took for the place where the crash tore its log shows.
//! Then the journal tells whether it has all commits. A database that lacks
//! some gets them; one that is damaged is made anew.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::checkpoint::Pair;
use super::database::Database;
use super::digest::Stamp;
use super::files::{private_copy, remove_directory};
use super::journal::Journal;
use super::refresh::{finish_refresh, refresh, swap_in_fresh};
use super::seal::Seal;
use super::survey::Survey;
use super::{durable, rebuild};
use crate::error::{Error, Result};

pub const JOURNAL: &str = "journal";

/// How a database that has been opened fits its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Whole,
    /// The database has commits that the journal lacks, or the journal is
    /// damaged: a checkpoint makes it whole again.
    JournalBehind,
}

/// Opens the database below `root` for changes, and its journal. `uuid` is the
/// store's id. A store of format 1 (`adopt`) gets a journal.
pub fn for_writing(root: &Path, uuid: &str, adopt: bool) -> Result<Arc<Pair>> {
    finish_refresh(root)?;
    let directory = root.join("db");
    let journal_directory = root.join(JOURNAL);
    let seal = Seal::look(root, &directory)?;
    let (database, journal) = if adopt {
        if let Seal::Broken { why, .. } = seal {
            return Err(without_journal(&why));
        }
        Seal::remove(root)?;
        let database = Database::open(&directory)?;
        // Left by an adoption that did not come to its end.
        remove_directory(&journal_directory)?;
        let digest = database.digest()?;
        database.set_stamp(Stamp { epoch: 1, digest })?;
        (database, None)
    } else {
        let survey = Survey::take(&journal_directory, uuid)?;
        let (database, fit) = settle(root, root, &survey, &seal, &Database::open)?;
        match fit {
            Fit::Whole => (database, Some(Journal::resume(&survey)?)),
            Fit::JournalBehind => {
                // A new store has neither.
                if database.stamp().epoch > 0 {
                    log::warn!(
                        "the journal lacks what the database has ({}); it begins anew",
                        survey.problems.join("; ")
                    );
                }
                (database, None)
            }
        }
    };
    let (database, refreshed) = match refresh(root, &database)? {
        true => {
            database.close();
            swap_in_fresh(root)?;
            (Database::open(&directory)?, true)
        }
        false => (database, false),
    };
    match journal {
        Some(journal) => {
            let pair = Pair::new(database, Some(journal));
            if refreshed {
                // It tells of the same rows at the same length.
                pair.checkpoint()?;
            }
            Ok(pair)
        }
        None => {
            let journal = Journal::start(&journal_directory, uuid)?;
            let pair = Pair::new(database, Some(journal));
            pair.checkpoint()?;
            Ok(pair)
        }
    }
}

/// Opens a copy of the database for reading, brought to the last commit.
/// `salvage`: as far as it goes, if nothing better is to be had.
pub fn for_reading(
    root: &Path,
    uuid: &str,
    has_journal: bool,
    salvage: bool,
) -> Result<(Arc<Pair>, TempDir)> {
    // A crash may have come between two renames.
    let [db, old] = ["db", "db.old"].map(|name| root.join(name));
    let there = match !db.is_dir() && old.is_dir() {
        true => old,
        false => db,
    };
    let copy = match there.is_dir() {
        true => private_copy(&there)?,
        false => tempfile::Builder::new()
            .prefix("laconicfs-")
            .tempdir()
            .map_err(Error::io("creating a temporary directory"))?,
    };
    let place = copy.path();
    let open = || {
        let seal = Seal::look(root, &there)?;
        if !has_journal {
            return match seal {
                Seal::Broken { why, .. } => Err(without_journal(&why)),
                _ => Database::open_private(&place.join("db")),
            };
        }
        let survey = Survey::take(&root.join(JOURNAL), uuid)?;
        let settled = settle(root, place, &survey, &seal, &Database::open_private);
        settled.map(|(database, _)| database)
    };
    let database = match open() {
        Err(error @ (Error::Corrupt(_) | Error::Io { .. })) if salvage => {
            log::warn!("{error}");
            // Opened once already it may not be what it was.
            remove_directory(&place.join("db"))?;
            remove_directory(&place.join("db.new"))?;
            open_whatever(root, uuid, &there, place)?
        }
        opened => opened?,
    };
    Ok((Pair::new(database, None), copy))
}

/// The rows that can be read of a damaged database and of its journal, in a
/// database of their own below `place`.
fn open_whatever(root: &Path, uuid: &str, there: &Path, place: &Path) -> Result<Database> {
    let fresh = place.join("db");
    salvage_into(root, uuid, there, &fresh)?;
    Database::open_private(&fresh)
}

/// Makes a database at `fresh` of the rows that can be read of the damaged one
/// in `there` and of its journal. Returns what is known to be missing, in
/// words.
pub fn salvage_into(root: &Path, uuid: &str, there: &Path, fresh: &Path) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let survey = Survey::take(&root.join(JOURNAL), uuid)?;
    let copy = there.is_dir().then(|| private_copy(there)).transpose()?;
    let mut kept = 0u64;
    let older = copy.as_ref().and_then(|copy| {
        Database::open_damaged(&copy.path().join("db"))
            .inspect_err(|error| missing.push(format!("the database cannot be read: {error}")))
            .ok()
    });
    // A database whose rows add up is whole as of its last commit: what the
    // journal has of older ones must not come over it.
    let sound = older.as_ref().and_then(|database| {
        let stamp = database.stamp();
        (stamp.epoch > 0 && database.digest().ok()? == stamp.digest).then_some(stamp.epoch)
    });
    // The last commit that there was, if that is known.
    let last = match Seal::look(root, there)? {
        Seal::Broken { epoch, .. } => epoch,
        Seal::Whole | Seal::Missing => 0,
    };
    let mut unreadable = None;
    let lost = rebuild::salvage(fresh, &survey, sound, |put| {
        let Some(database) = &older else {
            return Ok(());
        };
        let (mut from, mut limit) = (vec![0], 64);
        loop {
            let page = match database.page(&from, limit) {
                Ok(page) => page,
                // As close to the damage as it goes, and then over it.
                Err(_) if limit > 1 => {
                    limit = 1;
                    continue;
                }
                Err(error) => {
                    unreadable = Some(format!("rows of the database cannot be read: {error}"));
                    let Some(next) = behind_damage(database, &from) else {
                        return Ok(());
                    };
                    (from, limit) = (next, 64);
                    continue;
                }
            };
            for (raw_key, value) in &page {
                kept += 1;
                put(raw_key, value)?;
            }
            match page.last() {
                Some((last, _)) => from = [last.as_slice(), &[0]].concat(),
                None => return Ok(()),
            }
        }
    })?;
    let newest = last.max(survey.seen);
    if last > 0 && unreadable.is_none() && sound.is_some_and(|sound| sound >= newest) {
        log::info!("all {kept} rows of the database could be read");
        return Ok(Vec::new());
    }
    missing.extend(unreadable);
    let stamped = older
        .as_ref()
        .is_some_and(|database| database.stamp().epoch > 0);
    if stamped && sound.is_none() {
        missing.push("the rows of the database do not add up".into());
    }
    missing.extend(survey.problems.iter().cloned());
    let reached = older.map_or(0, |database| database.stamp().epoch);
    let reached = survey.seen.max(reached);
    if last > reached {
        missing.push(format!(
            "the commits {} to {last} are in neither database nor journal: an earlier state \
             is what is left",
            reached + 1
        ));
    }
    if lost > 0 {
        missing.push(format!("{lost} pieces of the journal cannot be read"));
    }
    log::info!("{kept} rows were read from the damaged database");
    Ok(missing)
}

/// The first key behind one at which rows cannot be read from which on they
/// can be, or one that is not far behind it.
fn behind_damage(database: &Database, from: &[u8]) -> Option<Vec<u8>> {
    let readable = |key: &[u8]| database.page(key, 1).is_ok();
    // A key that can be read, by steps that grow.
    let behind = (1..=from.len().min(DIGITS)).rev().find_map(|len| {
        let (last, before) = from[..len].split_last()?;
        let next = [before, &[last.checked_add(1)?]].concat();
        // The table's byte is never the last there is.
        readable(&next).then_some(next)
    })?;
    // Rows are lost by pages of the database, which are ranges of keys: back to
    // where the page ends.
    let (mut bad, mut good) = (digits(from), digits(&behind));
    while let Some(middle) = between(&bad, &good) {
        match readable(key_of(&middle)) {
            true => good = middle,
            false => bad = middle,
        }
    }
    Some(key_of(&good).to_vec())
}

/// Bytes of a key that are looked at to find the end of a damage.
const DIGITS: usize = 64;

/// A key as a number.
fn digits(key: &[u8]) -> [u8; DIGITS] {
    let mut digits = [0; DIGITS];
    let len = key.len().min(DIGITS);
    digits[..len].copy_from_slice(&key[..len]);
    digits
}

/// The shortest key of a number: the first of all that have it.
fn key_of(digits: &[u8; DIGITS]) -> &[u8] {
    let len = digits.iter().rposition(|&digit| digit != 0);
    &digits[..len.map_or(0, |last| last + 1)]
}

/// The number half way between two, if there is one.
fn between(low: &[u8; DIGITS], high: &[u8; DIGITS]) -> Option<[u8; DIGITS]> {
    let mut middle = [0; DIGITS];
    let mut carry = 0;
    for at in (0..DIGITS).rev() {
        let sum = u16::from(low[at]) + u16::from(high[at]) + carry;
        (middle[at], carry) = (sum as u8, sum >> 8);
    }
    for digit in &mut middle {
        let whole = carry << 8 | u16::from(*digit);
        (*digit, carry) = ((whole / 2) as u8, whole % 2);
    }
    (middle > *low && middle < *high).then_some(middle)
}

/// Puts the salvaged rows in the place of the database. Returns what is known
/// to be missing. The journal stays as it is: the rows count as a commit behind
/// all that it has, and so the next writer begins it anew.
pub fn salvage_in_place(root: &Path, uuid: &str) -> Result<Vec<String>> {
    finish_refresh(root)?;
    let missing = salvage_into(root, uuid, &root.join("db"), &root.join("db.new"))?;
    durable::sync_directory(root)?;
    Seal::remove(root)?;
    swap_in_fresh(root)?;
    Ok(missing)
}

/// What is wrong with seal and journal, in words.
pub fn problems(root: &Path, uuid: &str) -> Result<Vec<String>> {
    let seal = Seal::look(root, &root.join("db"))?;
    let survey = Survey::take(&root.join(JOURNAL), uuid)?;
    let mut problems = survey.problems;
    match seal {
        Seal::Broken { why, .. } => problems.push(why),
        // What a crash tore is no damage.
        Seal::Whole if survey.torn => problems.push("the journal's end is damaged".into()),
        Seal::Missing if !root.join("db").is_dir() => {
            problems.push("the database is missing".into());
        }
        _ => {}
    }
    Ok(problems)
}

/// Opens the database below `place` and brings it to the last commit, anew out
/// of the journal if need be. `root` is where the seal is.
fn settle(
    root: &Path,
    place: &Path,
    survey: &Survey,
    seal: &Seal,
    open: &dyn Fn(&Path) -> Result<Database>,
) -> Result<(Database, Fit)> {
    let writing = root == place;
    let directory = place.join("db");
    if writing && !matches!(seal, Seal::Broken { .. }) {
        Seal::remove(root)?;
    }
    let (why, epoch) = match seal {
        Seal::Broken { why, epoch } => (why.clone(), *epoch),
        _ if !directory.is_dir() => {
            let why = format!("the database {} is missing", root.join("db").display());
            (why, 0)
        }
        _ => {
            let fits = open(&directory).and_then(|database| {
                let fit = examine(&database, survey, seal)?;
                Ok((database, fit))
            });
            match fits {
                Err(Error::Corrupt(why)) => (why, 0),
                fits => return fits,
            }
        }
    };
    let last = survey.last.map_or(0, |last| last.epoch);
    if !survey.is_whole() || last < epoch {
        return Err(Error::Corrupt(format!(
            "{why}; and the journal does not have everything ({}). Nothing was changed: bring \
             back a copy of the store, read what is left by mounting it with `-o salvage`, or \
             let `laconicfs fsck --repair {}` put that in order",
            match survey.problems.is_empty() {
                true => format!("it ends with commit {last} of {epoch}"),
                false => survey.problems.join("; "),
            },
            root.display()
        )));
    }
    log::warn!("the database is made anew out of the journal: {why}");
    if survey.torn {
        log::warn!(
            "the journal ends within a commit, which was not acknowledged if that was a crash"
        );
    }
    rebuild::rebuild(&place.join("db.new"), survey)?;
    durable::sync_directory(place)?;
    if writing {
        Seal::remove(root)?;
    }
    swap_in_fresh(place)?;
    Ok((open(&directory)?, Fit::Whole))
}

/// Proves that a database is sound and brings it to the last commit of the
/// journal. [`Error::Corrupt`] when it must be made anew.
fn examine(database: &Database, survey: &Survey, seal: &Seal) -> Result<Fit> {
    let stamp = database.stamp();
    let differs = || Error::Corrupt("the rows of the database are not what was written".into());
    if !matches!(seal, Seal::Whole) && database.digest()? != stamp.digest {
        return Err(differs());
    }
    let older = || Error::Corrupt("the database has gone back to an earlier commit".into());
    match survey.last {
        Some(last) if survey.is_whole() => {
            if last.epoch < stamp.epoch {
                return Ok(Fit::JournalBehind);
            }
            if last == stamp {
                return Ok(Fit::Whole);
            }
            if last.epoch == stamp.epoch || !survey.continues(stamp.epoch) {
                return Err(older());
            }
            log::info!(
                "the database lacks the commits {} to {}; the journal has them",
                stamp.epoch + 1,
                last.epoch
            );
            survey.commits(stamp.epoch, &mut |then, batch| {
                let plan = database.plan(&batch)?;
                match plan.stamp == then {
                    true => database.apply(plan, false),
                    false => Err(differs()),
                }
            })?;
            database.flush()?;
            Ok(Fit::Whole)
        }
        _ if stamp.epoch >= survey.seen => Ok(Fit::JournalBehind),
        _ => Err(older()),
    }
}

fn without_journal(why: &str) -> Error {
    Error::Corrupt(format!(
        "{why}; nothing was changed. Bring `db` and `db.seal` back from a copy of the store, \
         read what is left by mounting it with `-o salvage`, or let `laconicfs fsck --repair` \
         put that in order"
    ))
}
