//! What fuzzers found worth keeping, replayed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use wayline_fuzz_targets::TARGETS;

#[test]
fn every_input_of_every_corpus_holds() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    for (name, target) in TARGETS {
        let folder = corpora.join(name);
        let mut replayed = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let file = entry.unwrap().path();
            println!("{}", file.display());
            target(&std::fs::read(&file).unwrap());
            replayed += 1;
        }
        assert!(
            replayed >= 5,
            "{} holds {replayed} inputs",
            folder.display()
        );
    }
    let folders = std::fs::read_dir(&corpora).unwrap().count();
    assert_eq!(folders, TARGETS.len(), "a corpus without a target");
}

#[test]
fn every_target_has_a_fuzzer() {
    let fuzzers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz_targets");
    for (name, _) in TARGETS {
        let fuzzer = fuzzers.join(name).with_extension("rs");
        let text = std::fs::read_to_string(fuzzer).unwrap();
        assert!(
            text.contains(&format!("wayline_fuzz_targets::{name}(data)")),
            "{text}"
        );
    }
}
