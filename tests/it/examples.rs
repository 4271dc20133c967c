//! Every configuration that the repository shows is a good one.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Authority, roundel, roundel_with};

#[tokio::test]
async fn every_example_passes_check() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("docker/roundel.yaml")];
    files.extend(yaml_files(&root.join("conf")));
    let tls = certificates(&["site", "shop", "partners"]);
    let directory = tls.path().to_str().expect("the path is text");

    for file in files {
        let arguments = ["check", "-c", file.to_str().expect("the path is text")];
        let output = roundel_with(&[("TLS_DIRECTORY", directory)], &arguments).await;
        assert_eq!(output.status.code(), Some(0), "{}: {output:?}", file.display());
    }
}

/// The certificates that the examples name.
fn certificates(names: &[&str]) -> tempfile::TempDir {
    let (directory, authority) = (tempfile::tempdir().expect("there is a temporary directory"), Authority::new());
    for name in names {
        let issued = authority.issue(&["site.example"]);
        for (extension, content) in [("pem", issued.pem()), ("key", issued.key_pem())] {
            let path = directory.path().join(name).with_extension(extension);
            fs::write(path, content).expect("the directory can be written");
        }
    }
    directory
}

fn yaml_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect()
}

#[tokio::test]
async fn every_configuration_in_the_readme_passes_check() {
    let readme = include_str!("../../README.md");
    let shown: Vec<&str> = readme.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let directory = tempfile::tempdir().expect("there is a temporary directory");

    for yaml in &shown {
        let path = directory.path().join("roundel.yaml");
        fs::write(&path, yaml).expect("the directory can be written");
        let output = roundel(&["check", "-c", path.to_str().expect("the path is text")]).await;
        assert_eq!(output.status.code(), Some(0), "{yaml}\n{output:?}");
    }
    let site = include_str!("../../conf/site.yaml");
    assert!(shown.iter().any(|yaml| site.ends_with(yaml)), "the longer one is conf/site.yaml");
}

#[tokio::test]
async fn every_configuration_for_those_who_come_from_elsewhere_passes_check() {
    let page = include_str!("../../docs/coming-from.md");
    let shown: Vec<&str> = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let directory = certificates(&["site", "ca"]);
    let users = include_str!("../config/files/users");
    fs::write(directory.path().join("users.htpasswd"), users).expect("the directory can be written");
    assert!(!shown.is_empty());

    for yaml in shown {
        let path = directory.path().join("roundel.yaml");
        fs::write(&path, yaml).expect("the directory can be written");
        let output = roundel(&["check", "-c", path.to_str().expect("the path is text")]).await;
        assert_eq!(output.status.code(), Some(0), "{yaml}\n{output:?}");
    }
}

#[test]
fn every_link_in_the_documents_leads_to_a_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root.join(name));
    let manual = fs::read_dir(root.join("docs")).expect("there is a manual").flatten().map(|entry| entry.path());
    let manual = manual.filter(|path| path.extension().is_some_and(|extension| extension == "md"));

    for page in pages.into_iter().chain(manual) {
        let text = fs::read_to_string(&page).expect("a page is text");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for target in targets.filter(|target| !target.is_empty() && !target.contains("://")) {
            let directory = page.parent().expect("a page lies in a directory");
            assert!(directory.join(target).exists(), "{}: {target}", page.display());
        }
    }
}
