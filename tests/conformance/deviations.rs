//! The list of deviations and the cases agree: what the Go libraries do not pass is listed with a reason, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};
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

/// The numbers in the list, each with its reason.
fn listed() -> BTreeMap<String, &'static str> {
    let rows = LIST.lines().filter(|line| line.starts_with("| "));
    let reason = |row: &'static str| {
        row.trim_end_matches([' ', '|'])
            .rsplit('|')
            .next()
            .unwrap()
            .trim()
    };
    rows.flat_map(|row| numbers(row).map(move |number| (number, reason(row))))
        .collect()
}

#[test]
fn the_list_names_exactly_the_cases_in_which_drpcd_differs() {
    let alone = suite().into_iter().filter(|(_, servers)| servers == "drpcd");
    let differ: BTreeSet<_> = alone
        .map(|(number, _)| number)
        .chain(BETTER.map(str::to_owned))
        .collect();
    let listed = listed();
    assert_eq!(differ, listed.keys().cloned().collect());
    for (number, reason) in listed {
        assert!(!reason.is_empty(), "{number} has no reason");
    }
}
