//! The list of deviations and the cases agree: what the Go libraries do not pass is listed, and nothing else is. Every row of the
//! list has a reason.

use std::collections::BTreeSet;
use std::path::Path;

const LIST: &str = include_str!("../../docs/DEVIATIONS.md");

/// Where the specification asks for better than Go. Go passes some of what the cases ask of both.
const BETTER: [&str; 8] = [
    "wire_024", "wire_025", "wire_029", "wire_040", "wire_049", "wire_075", "wire_081", "wire_084",
];

fn numbers(text: &str) -> impl Iterator<Item = String> {
    text.match_indices("wire_")
        .map(|(at, _)| text[at..].chars().take("wire_000".len()).collect())
}

/// The cases of this suite with the servers that they run on.
fn suite() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let mut cases = Vec::new();
    for entry in directory.read_dir().unwrap() {
        for line in std::fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            let Some(case) = line.trim().strip_prefix("fn wire_") else {
                continue;
            };
            let (_, servers) = case.split_once(" on ").unwrap();
            let servers = servers.trim_end_matches(" {");
            cases.extend(numbers(line).map(|number| (number, servers.to_owned())));
        }
    }
    cases
}

#[test]
fn every_numbered_case_is_told() {
    let told: BTreeSet<_> = suite().into_iter().map(|(number, _)| number).collect();
    let all: BTreeSet<_> = (1..=110).map(|number| format!("wire_{number:03}")).collect();
    assert_eq!(told, all);
}

/// The cells of a row, with what stands before its first bar and behind its last. A bar that belongs to a cell stands behind a
/// backslash.
fn cells(row: &str) -> Vec<&str> {
    let bars = row.match_indices('|').map(|(at, _)| at);
    let bars = bars.filter(|&at| !row[..at].ends_with('\\'));
    let mut from = 0;
    let mut cells: Vec<_> = bars
        .map(|at| row[std::mem::replace(&mut from, at + 1)..at].trim())
        .collect();
    cells.push(row[from..].trim());
    cells
}

/// The numbers in the list.
fn listed() -> BTreeSet<String> {
    let rows = LIST.lines().filter(|line| line.starts_with("| "));
    rows.flat_map(numbers).collect()
}

#[test]
fn every_row_says_where_what_differs_and_why() {
    let tables = LIST.split("\n\n").filter(|text| text.starts_with('|'));
    let mut places = BTreeSet::new();
    for table in tables {
        let rows: Vec<_> = table.lines().map(cells).collect();
        assert_eq!(rows[0], ["", "where", "original", "drpcd", "why", ""]);
        for row in &rows[2..] {
            let [before, place, original, ours, why, behind] = row[..] else {
                panic!("{} cells: {row:?}", row.len());
            };
            // A dash is no reason.
            let said = |cell: &str| cell.chars().any(char::is_alphanumeric);
            assert!([place, original, ours, why].into_iter().all(said), "{row:?}");
            assert!(before.is_empty() && behind.is_empty(), "{row:?}");
            assert!(places.insert(place), "{place} is listed twice");
        }
    }
    let all = LIST.lines().filter(|line| line.contains(" | "));
    assert_eq!(places.len() + 1, all.count(), "rows outside of tables");
}

#[test]
fn the_list_names_exactly_the_cases_in_which_drpcd_differs() {
    let alone = suite().into_iter().filter(|(_, servers)| servers == "drpcd");
    let differ: BTreeSet<_> = alone
        .map(|(number, _)| number)
        .chain(BETTER.map(str::to_owned))
        .collect();
    assert_eq!(differ, listed());
}
