use super::*;
use crate::filesystem::{Day, tests::fresh};
use crate::volume::{Caller, ROOT, WriteFlags};

/// A report of a store with files of several types, some of them coded.
fn example() -> WholeReport {
    let (_folder, fs) = fresh();
    let volume = fs.volume();
    let me = Caller { uid: 0, gid: 0 };
    let write = |name: &str, data: &[u8]| {
        let attr = volume.make_node(ROOT, name.as_bytes(), 0o644, 0, me);
        let ino = attr.unwrap().ino;
        volume
            .write_file(ino, 0, data, WriteFlags::empty())
            .unwrap();
    };
    write("a.txt", &b"Some words, again and again. ".repeat(4000));
    write("b.<b>", b"a name that a page must not take for its own");
    let mut noise = vec![0; 50_000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    write("c.jpg", &noise);
    volume.sync().unwrap();
    volume.tier().drain(&mut |_| true).unwrap();
    let line = |n: u64| format!("{n}: line {} of a log\n", n * n % 977);
    let log: String = (0..3000).map(line).collect();
    write("d.log", log.as_bytes());
    let mut whole = fs.whole_report(&mut |_| true).unwrap();
    fs.close().unwrap();
    whole.stat.store = "/srv/<notes> & more.store".into();
    whole.history = (0..30)
        .map(|n| Day {
            day: 20_000 + n,
            logical: u64::from(n * n) * 1000,
            disk: u64::from(n * n) * 300,
            ..Day::default()
        })
        .collect();
    whole
}

#[test]
fn sums_are_those_of_the_store() {
    let whole = example();
    let survey = &whole.survey;
    let sum = |of: fn(&crate::usage::Sizes) -> u64| -> u64 {
        survey.kinds.iter().map(|kind| of(&kind.sizes)).sum()
    };
    assert_eq!(sum(|s| s.logical), whole.stat.logical);
    assert_eq!(sum(|s| s.disk), survey.total.disk);
    let chunks: u64 = whole.stat.chunks.iter().map(|row| row.stored).sum();
    assert_eq!(
        survey.coded.iter().map(|row| row.stored).sum::<u64>(),
        chunks
    );
    let ratios: u64 = survey.ratios.iter().map(|ratio| ratio.plain).sum();
    assert_eq!(ratios, survey.total.plain);
    // Neither noise nor a file of 44 bytes shrinks.
    assert_eq!(survey.ratios.last().unwrap().plain, 50_044);
    let gains = gains(&whole);
    assert!(
        gains.iter().any(|gain| gain.what.contains("wait")),
        "{gains:?}"
    );
}

#[test]
fn the_page_stands_alone() {
    let whole = example();
    let page = html::page(&whole, &gains(&whole)).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>"));
    assert!(page.contains("&lt;notes&gt; &amp; more.store"));
    for foreign in ["<notes>", "<script", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    // The name of the SVG language is no address that anything is fetched from.
    let addresses = page.matches("http").count();
    assert_eq!(
        addresses,
        page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count()
    );
    assert_eq!(page.matches("<svg").count(), 4);
    // Every colour is one that the style sheet replaces.
    for part in page.split(['"', ' ']).filter(|part| part.starts_with('#')) {
        let known = ["#010101", "#020202", "#030303"];
        let digits = part.len() == 7 && part[1..].bytes().all(|b| b.is_ascii_hexdigit());
        assert!(!digits || known.contains(&part), "{part}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
    assert!(page.contains("name=\"viewport\""));
}

#[test]
fn an_empty_store_has_a_page() {
    let mut whole = example();
    whole.survey = Default::default();
    whole.history.clear();
    whole.stat.chunks.clear();
    whole.stat.disk.logs = 0;
    let page = html::page(&whole, &gains(&whole)).unwrap();
    assert!(page.contains("The store is empty.") && page.contains("Nothing that is known"));
    assert!(!page.contains("NaN"));
}

/// A browser of this machine, with its window as wide as a phone's.
#[test]
fn a_browser_shows_the_page() {
    let browser = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| {
            let asked = std::process::Command::new(name).arg("--version").output();
            asked.is_ok_and(|output| output.status.success())
        });
    let Some(browser) = browser else {
        eprintln!("skipped: no chromium to show the page with");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.html");
    let whole = example();
    let mut page = html::page(&whole, &gains(&whole)).unwrap();
    // The browser tells by a script of the test's own how wide the page is.
    page.push_str(
        "<script>document.title = [document.documentElement.scrollWidth, innerWidth, \
         document.querySelectorAll('svg').length, \
         Math.round(document.querySelector('svg').getBoundingClientRect().height), \
         getComputedStyle(document.querySelector('svg rect')).fill].join(';')</script>",
    );
    std::fs::write(&file, page).unwrap();
    let output = std::process::Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
        .args(["--disable-dev-shm-usage", "--window-size=500,900"])
        .arg(format!(
            "--user-data-dir={}",
            folder.path().join("profile").display()
        ))
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    let title = dom
        .split_once("<title>")
        .and_then(|(_, rest)| rest.split_once("</title>"))
        .map(|(title, _)| title.to_string());
    let Some(title) = title.filter(|title| title.contains(';')) else {
        eprintln!(
            "skipped: {browser} does not run here: {}",
            String::from_utf8_lossy(&output.stderr)
                .lines()
                .next()
                .unwrap_or_default()
        );
        return;
    };
    let told: Vec<&str> = title.split(';').collect();
    let number = |at: usize| told[at].parse::<i64>().unwrap();
    // Nothing sticks out to the side, the plots are there and have been coloured.
    assert!(number(0) <= number(1), "{title}");
    assert_eq!(number(2), 4, "{title}");
    assert!(number(3) > 50, "{title}");
    assert_ne!(told[4], "rgb(2, 2, 2)", "{title}");
}
