//! Every input that fuzzing found worth keeping, once more, without a fuzzer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fuzz::targets;

#[test]
fn every_input_of_the_corpus_holds() {
    for (name, target) in targets::ALL {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let inputs: Vec<_> = std::fs::read_dir(&dir)
            .expect("each target has a corpus")
            .map(|entry| entry.expect("the corpus can be listed").path())
            .collect();
        assert!(inputs.len() > 10, "{} is no corpus", dir.display());
        for path in inputs {
            let input = std::fs::read(&path).expect("an input can be read");
            let held = catch_unwind(AssertUnwindSafe(|| target(&input)));
            assert!(held.is_ok(), "{} does not hold", path.display());
        }
    }
}
