//! Holds the invariants of `docs/ARCHITECTURE.md` that a search of the sources can hold.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines that a source file may have. A file that needs more has two subjects.
const MAX_LINES: usize = 620;

fn sources(dir: &str, extension: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut pending = vec![root.join(dir)];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// Lines of `text` that are code, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Asserts that none of `words` stands in the code of files below `places`, except below `except`.
fn forbid(rule: &str, places: &[&str], except: &[&str], words: &[&str]) {
    let mut broken = Vec::new();
    let mut looked_at = 0;
    for (path, text) in sources("src", "rs") {
        let below = |places: &[&str]| places.iter().any(|place| path.starts_with(place));
        let test = path.components().any(|part| {
            matches!(
                part.as_os_str().to_str(),
                Some("tests" | "tests.rs" | "testing.rs")
            )
        });
        if !below(places) || below(except) || test {
            continue;
        }
        looked_at += 1;
        for (number, line) in code(&text) {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                broken.push(format!("{}:{number} names {word}", path.display()));
            }
        }
    }
    assert!(looked_at > 0, "{rule}: no file was looked at");
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

#[test]
fn no_file_is_longer_than_its_subject() {
    let dirs = [
        ("src", "rs"),
        ("tests", "rs"),
        ("benches", "rs"),
        ("interop", "go"),
    ];
    let files = dirs.iter().flat_map(|(dir, extension)| sources(dir, extension));
    let hand_written = files.filter(|(path, _)| !path.to_string_lossy().ends_with(".pb.go"));
    let long: Vec<_> = hand_written
        .filter(|(_, text)| text.lines().count() > MAX_LINES)
        .map(|(path, _)| path)
        .collect();
    assert!(long.is_empty(), "longer than {MAX_LINES} lines: {long:?}");
}

#[test]
fn sql_lives_only_under_store() {
    let statements = [
        "\"SELECT ",
        "\"INSERT INTO ",
        "\"UPDATE ",
        "\"DELETE FROM ",
        "sqlx",
    ];
    forbid(
        "SQL lives only under store/",
        &["src"],
        &["src/store"],
        &statements,
    );
}

#[test]
fn the_mux_knows_neither_agents_nor_sql_nor_http() {
    let above = [
        "crate::store",
        "crate::services",
        "crate::http",
        "crate::proto",
        "crate::sessions",
        "crate::ids",
    ];
    forbid("mux names nothing above it", &["src/mux"], &[], &above);
}

#[test]
fn services_never_see_frames_or_http() {
    let foreign = [
        "mux::session",
        "mux::call",
        "mux::frame",
        "mux::packet",
        "axum",
        "hyper",
        "reqwest",
        "tungstenite",
    ];
    forbid(
        "services see neither frames nor HTTP",
        &["src/services", "src/coordinator", "src/batch"],
        &[],
        &foreign,
    );
}

#[test]
fn only_http_knows_http_and_websocket() {
    forbid(
        "HTTP is named only in http/",
        &["src"],
        &["src/http"],
        &["axum::", "hyper::", "reqwest::", "tungstenite::"],
    );
}

#[test]
fn the_store_knows_nothing_above_it() {
    let above = [
        "crate::mux",
        "crate::services",
        "crate::http",
        "crate::proto",
        "crate::sessions",
        "crate::batch",
    ];
    forbid("store names nothing above it", &["src/store"], &[], &above);
}

#[test]
fn time_comes_from_the_clock() {
    let own = ["SystemTime::now", "Instant::now", "Timestamp::now"];
    forbid("time comes from the clock", &["src"], &["src/clock.rs"], &own);
}

#[test]
fn the_protocol_cores_do_no_io() {
    let cores = [
        "varint.rs",
        "frame.rs",
        "packet.rs",
        "metadata.rs",
        "call.rs",
        "call",
        "session",
        "quote.rs",
        "layout.rs",
    ];
    let cores: Vec<_> = cores.iter().map(|file| format!("src/mux/{file}")).collect();
    let cores: Vec<_> = cores.iter().map(String::as_str).collect();
    let io = [
        "tokio::", "async fn", ".await", "Instant", "rand::", "std::net", "std::fs",
    ];
    forbid(
        "the cores are sans-IO",
        &cores,
        &["src/mux/session/tests", "src/mux/call/tests"],
        &io,
    );
}

#[test]
fn no_queue_is_unbounded() {
    forbid(
        "every queue has a bound",
        &["src"],
        &[],
        &["unbounded_channel", "mpsc::unbounded"],
    );
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = ["todo!(", "unimplemented!(", "FIXME", "XXX", "allow(dead_code"];
    forbid("nothing is left unfinished", &["src"], &[], &marks);
}

/// The numbered cases that a test's name carries: one as `s1_034_…`, a range as `s1_078_to_080_…`, several as
/// `s2_011_and_012_…`. A prefix holds for the numbers behind it.
fn cases_of(name: &str) -> BTreeSet<String> {
    let mut cases = BTreeSet::new();
    let (mut prefix, mut last, mut range) = (None, None, false);
    for word in name.split('_') {
        let number = (word.len() == 3).then(|| word.parse::<u32>().ok()).flatten();
        match (prefix, number) {
            _ if ["s1", "s2", "conn", "wire", "tn"].contains(&word) => (prefix, last) = (Some(word), None),
            (Some(prefix), Some(number)) => {
                let first = last.filter(|_| range).unwrap_or(number);
                cases.extend((first..=number).map(|number| format!("{prefix}_{number:03}")));
                (last, range) = (Some(number), false);
            }
            (Some(_), None) if word == "to" && last.is_some() => range = true,
            (Some(_), None) if word == "and" => {}
            _ => (prefix, range) = (None, false),
        }
    }
    cases
}

/// What the tests carry: in the names of functions, and in lines `// covers: s2_033, s2_034` for the rows of a table. A Go
/// test is called `TestConn048And049…`.
fn carried() -> BTreeSet<String> {
    let rust = [sources("src", "rs"), sources("tests", "rs")].concat();
    let mut carried = BTreeSet::new();
    for (_, text) in rust {
        for line in text.lines().map(str::trim_start) {
            if let Some(cases) = line.strip_prefix("// covers: ") {
                carried.extend(cases.split(", ").flat_map(cases_of));
            } else if let Some((_, name)) = line.split_once("fn ") {
                let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                carried.extend(cases_of(&name[..end.unwrap_or(name.len())]));
            }
        }
    }
    for (_, text) in sources("interop", "go") {
        for name in text.lines().filter_map(|line| line.strip_prefix("func TestConn")) {
            let numbers = name.split("And").map_while(|number| number.get(..3));
            let numbers = numbers.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
            carried.extend(numbers.map(|number| format!("conn_{number}")));
        }
    }
    carried
}

#[test]
fn the_numbered_cases_and_the_tests_agree() {
    let numbered = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    for (name, cases) in [
        ("s1_034_a_full_manifest", &["s1_034"][..]),
        (
            "rest_s1_078_to_080_and_tn_002_are",
            &["s1_078", "s1_079", "s1_080", "tn_002"],
        ),
        ("s2_011_012_and_014_of_404", &["s2_011", "s2_012", "s2_014"]),
        ("answers_of_404_to_500", &[]),
    ] {
        let cases: BTreeSet<String> = numbered(cases);
        assert_eq!(cases_of(name), cases, "{name}");
    }
    let list = include_str!("../docs/cases.txt").lines();
    let list = list.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let listed: BTreeSet<String> = list
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    let carried = carried();
    let untested: Vec<_> = listed.difference(&carried).collect();
    let unknown: Vec<_> = carried.difference(&listed).collect();
    assert!(untested.is_empty(), "no test carries {untested:?}");
    assert!(unknown.is_empty(), "docs/cases.txt does not list {unknown:?}");
}
