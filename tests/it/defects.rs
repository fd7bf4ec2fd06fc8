//! The seeded defects of `loadtest/defects.d` can still be planted, and the tests that must notice them still exist. That
//! they do notice is shown by `loadtest/defects`, which takes a build for each.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn texts_in(dir: &Path, extension: &str) -> Vec<(PathBuf, String)> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory of ours") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            texts.extend(texts_in(&path, extension));
        } else if path.extension().is_some_and(|own| own == extension) {
            let text = fs::read_to_string(&path).expect("readable");
            texts.push((path, text));
        }
    }
    texts
}

#[test]
fn every_defect_can_be_planted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests: String = texts_in(&root.join("tests/it"), "rs").into_iter().map(|(_, text)| text).collect();
    let defects = texts_in(&root.join("loadtest/defects.d"), "defect");
    assert!(defects.len() >= 15, "{} defects", defects.len());
    let mut whats = BTreeSet::new();
    for (path, text) in defects {
        let name = path.display();
        let after = |word: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(word)).collect::<Vec<_>>();
            assert!(!lines.is_empty(), "{name} has no line `{word}`");
            lines
        };
        let test = after("test: ")[0].rsplit("::").next().expect("a name");
        assert!(tests.contains(&format!("fn {test}(")), "{name}: there is no test {test}");
        assert!(whats.insert(after("what: ")[0].to_owned()), "{name} is there twice");
        let files = after("file: ");
        let edits: Vec<&str> = text.split("\n<<<<\n").skip(1).collect();
        assert_eq!(edits.len(), files.len(), "{name}");
        for (file, edit) in files.into_iter().zip(edits) {
            let (old, _) = edit.split_once("\n====\n").unwrap_or_else(|| panic!("{name} has no `====`"));
            let source =
                fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{name}: {file}: {error}"));
            let times = source.matches(old).count();
            assert_eq!(times, 1, "{name}: so often stands in {file}: {old}");
        }
    }
}
