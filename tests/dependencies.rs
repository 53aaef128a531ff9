//! What is depended on: from where, under which licences, and in versions without known holes.
//!
//! `Cargo.toml` names the advisories; `scripts/advisories` looks for new ones where their database can be reached.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::sync::LazyLock;

use semver::{Version, VersionReq};
use serde_json::Value;

/// Licences under which a binary can be given to anybody.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// What Cargo says of the lock file.
static METADATA: LazyLock<Value> = LazyLock::new(|| {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
});

fn packages() -> &'static [Value] {
    METADATA["packages"].as_array().unwrap()
}

fn ours() -> &'static Value {
    packages()
        .iter()
        .find(|package| package["name"] == "drpcd")
        .unwrap()
}

fn version(package: &Value) -> Version {
    package["version"].as_str().unwrap().parse().unwrap()
}

/// Whether Cargo takes one for the other.
fn compatible(a: &Version, b: &Version) -> bool {
    a.major == b.major && (a.major > 0 || a.minor == b.minor)
}

/// The least version that a requirement lets in.
fn least(requirement: &str) -> Version {
    let requirement: VersionReq = requirement.parse().unwrap();
    let one = &requirement.comparators[0];
    Version::new(one.major, one.minor.unwrap_or(0), one.patch.unwrap_or(0))
}

#[test]
fn no_version_is_older_than_the_end_of_a_known_advisory() {
    let advisories = ours()["metadata"]["advisories"].as_object().unwrap();
    assert!(!advisories.is_empty());
    for (advisory, ends) in advisories {
        for end in ends.as_array().unwrap() {
            let (name, end) = end.as_str().unwrap().split_once(' ').unwrap();
            let end: Version = end.parse().unwrap();
            let used: Vec<Version> = packages()
                .iter()
                .filter(|package| package["name"] == name)
                .map(version)
                .filter(|version| compatible(version, &end))
                .collect();
            assert!(!used.is_empty(), "{name} is not used any more: {advisory} can go");
            assert!(
                used.iter().all(|version| *version >= end),
                "{advisory}: {name} {used:?}"
            );
            for dependency in ours()["dependencies"].as_array().unwrap() {
                let least = least(dependency["req"].as_str().unwrap());
                if dependency["name"] == name && compatible(&least, &end) && dependency["kind"].is_null() {
                    assert!(least >= end, "{advisory}: Cargo.toml asks for {name} {least}");
                }
            }
        }
    }
}

#[test]
fn everything_comes_from_the_public_registry() {
    for package in packages() {
        let source = package["source"].as_str();
        assert!(
            source == Some("registry+https://github.com/rust-lang/crates.io-index")
                || package["name"] == "drpcd",
            "{} comes from {source:?}",
            package["name"]
        );
    }
}

#[test]
fn every_licence_lets_the_binary_be_given_to_anybody() {
    for package in packages() {
        let licence = package["license"].as_str().unwrap_or_default();
        // SPDX, with the slash of old manifests; no expression has more than one level.
        let allowed = licence.replace('/', " OR ").split(" AND ").all(|part| {
            part.trim_matches(['(', ')'])
                .split(" OR ")
                .any(|one| LICENCES.contains(&one.trim()))
        });
        assert!(allowed, "{}: {licence:?}", package["name"]);
    }
}
