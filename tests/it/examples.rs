//! Every configuration that the repository shows is a good one.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::roundel;

#[tokio::test]
async fn every_example_passes_check() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("docker/roundel.yaml")];
    files.extend(yaml_files(&root.join("conf")));

    for file in files {
        let output = roundel(&["check", "-c", file.to_str().expect("the path is text")]).await;
        assert_eq!(output.status.code(), Some(0), "{}: {output:?}", file.display());
    }
}

fn yaml_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect()
}
