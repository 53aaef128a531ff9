//! Replays what fuzzing has found worth keeping, and runs every target over random input.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::proto;

/// Bytes that all corpora may have together: they are part of every clone.
const MAX_CORPUS: usize = 1 << 20;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// The inputs that are kept for a target, by name.
fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = corpus().join(target);
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}

#[test]
fn every_kept_input_is_survived() {
    let mut size = 0;
    for (target, body) in TARGETS {
        let inputs = inputs(target);
        assert!(!inputs.is_empty(), "no inputs for {target}");
        for (path, bytes) in inputs {
            size += bytes.len();
            let survived = std::panic::catch_unwind(|| body(&bytes));
            assert!(survived.is_ok(), "{}", path.display());
        }
    }
    assert!(size <= MAX_CORPUS, "{size}");
}

#[test]
fn every_target_has_its_crate_and_every_method_its_request() {
    for (target, _) in TARGETS {
        let manifest = include_str!("../../fuzz/Cargo.toml");
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
    }
    let mut known: Vec<_> = proto::requests().iter().map(|(path, _)| *path).collect();
    known.sort_unstable();
    let mut looked_at = REQUESTS.map(|(path, _)| path);
    looked_at.sort_unstable();
    assert_eq!(known, looked_at);
}

fn any_input() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..600)
}

/// One input of a target's corpus, changed in a few places.
fn changed(target: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let inputs: Vec<_> = inputs(target).into_iter().map(|(_, bytes)| bytes).collect();
    (prop::sample::select(inputs), changes).prop_map(|(mut input, changes)| {
        for (place, byte) in changes {
            if !input.is_empty() {
                let place = place.index(input.len());
                input[place] = byte;
            }
        }
        input
    })
}

macro_rules! properties {
    ($($test:ident: $target:literal),* $(,)?) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(128))]
            $(
                #[test]
                fn $test(input in prop_oneof![any_input(), changed($target)]) {
                    run($target, &input);
                }
            )*
        }
    };
}

properties! {
    frames_hold_for_any_input: "frames",
    packets_hold_for_any_input: "packets",
    calls_hold_for_any_input: "calls",
    metadata_holds_for_any_input: "metadata",
    yamux_holds_for_any_input: "yamux",
    websockets_hold_for_any_input: "websocket",
    requests_hold_for_any_input: "requests",
    texts_hold_for_any_input: "texts",
    seeds_hold_for_any_input: "seed",
    derp_maps_hold_for_any_input: "derp",
}
