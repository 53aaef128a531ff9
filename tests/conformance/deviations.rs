//! The list of deviations and the cases agree: what the Go libraries do not pass is listed, and nothing else is.

use std::collections::BTreeSet;
use std::path::Path;

/// Where the specification asks for better than Go.
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
            for number in numbers(line) {
                cases.push((number, servers.trim_end_matches(" {").to_owned()));
            }
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

#[test]
fn what_go_does_not_pass_is_a_listed_deviation() {
    let list = include_str!("../../docs/DEVIATIONS.md");
    let listed: BTreeSet<_> = numbers(list).collect();
    let suite = suite();
    let on_go: BTreeSet<_> = suite
        .iter()
        .filter(|(_, on)| on.contains("go"))
        .map(|(number, _)| number)
        .collect();
    let alone: BTreeSet<_> = suite
        .iter()
        .map(|(number, _)| number)
        .filter(|number| !on_go.contains(number))
        .cloned()
        .chain(BETTER.map(str::to_owned))
        .collect();
    assert_eq!(
        alone.difference(&listed).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "not listed"
    );
    for row in list.lines().filter(|line| line.contains("wire_")) {
        let reason = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        assert!(!reason.trim().is_empty(), "no reason: {row}");
    }
}
