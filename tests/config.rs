//! Promises of the configuration language.
//!
//! Each `tests/config/NAME.yaml` is loaded, and what is told of it must be `tests/config/NAME.expected`, to the letter. A file
//! that begins with `# support: everything` is read without the gate of what is not built yet.
//! `UPDATE_EXPECTED=1 cargo test --test config` writes the expectations anew, and `docs/configuration.md` too: read the difference.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its data has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use roundel::base::path::NormalPath;
use roundel::base::request::{RequestView, Scheme};
use roundel::config::file::server::Server;
use roundel::config::lint::routes::covered;
use roundel::config::plan::HostPattern;
use roundel::config::{self, Diagnostics, Paint, Support};
use roundel::route::RouteTable;

fn environment(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("8081".to_owned()),
        "WEIGHT" => Some("3".to_owned()),
        "EVIL" => Some("1, backup: true }\nlog: { level: off".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no files in {directory}");
    files
}

fn diagnostics(path: &Path) -> Diagnostics {
    let text = fs::read(path).unwrap();
    let support = if text.starts_with(b"# support: everything") { Support::Everything } else { Support::Built };
    match config::load_with(path, &environment, support) {
        Ok(loaded) => loaded.all_warnings(),
        Err(faults) => faults,
    }
}

fn is_update() -> bool {
    std::env::var_os("UPDATE_EXPECTED").is_some()
}

#[test]
fn every_fault_is_told_as_expected() {
    // A checkout may have taken the right to read from others, and with it the warning.
    for (file, mode) in
        [("secret.pem", 0o644), ("cert.pem", 0o644), ("users", 0o644), ("other.key", 0o600), ("encrypted.key", 0o600)]
    {
        fs::set_permissions(Path::new("tests/config/files").join(file), PermissionsExt::from_mode(mode)).unwrap();
    }
    let mut different = Vec::new();
    for path in yaml_files("tests/config") {
        let told = diagnostics(&path).render(Paint::Plain).replace(env!("CARGO_MANIFEST_DIR"), "$ROOT");
        let expected_path = path.with_extension("expected");
        if is_update() {
            fs::write(&expected_path, &told).unwrap();
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if told != expected {
            different.push(format!("{}\n--- told\n{told}--- expected\n{expected}", path.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn seven_mistakes_are_told_at_once() {
    let told = diagnostics(Path::new("tests/config/seven-mistakes.yaml"));
    assert_eq!(told.len(), 7, "{told}");
    assert!(told.iter().all(|one| one.place.is_some() && one.help.is_some()), "{told}");
}

#[test]
fn every_example_loads_without_a_word_and_fits_the_schema() {
    let schema = jsonschema::validator_for(&config::schema::schema(Support::Built)).unwrap();
    let tls = certificates(&["site", "shop", "partners"]);
    let environment = |name: &str| (name == "TLS_DIRECTORY").then(|| tls.path().display().to_string());
    for path in yaml_files("conf") {
        let loaded = config::load(&path, &environment).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(loaded.all_warnings().is_empty(), "{}", loaded.all_warnings());
        let yaml: serde_json::Value = serde_yaml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let faults: Vec<String> = schema.iter_errors(&yaml).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "{}: {faults:?}", path.display());
    }
}

/// The certificates that the examples name, each with its key.
fn certificates(names: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in names {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["site.example".to_owned()]).unwrap();
        let key = directory.path().join(name).with_extension("key");
        fs::write(directory.path().join(name).with_extension("pem"), cert.pem()).unwrap();
        fs::write(&key, signing_key.serialize_pem()).unwrap();
        fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    }
    directory
}

#[test]
fn the_whole_language_fits_its_schema() {
    let schema = jsonschema::validator_for(&config::schema::schema(Support::Everything)).unwrap();
    let text = fs::read_to_string("tests/config/everything.yaml").unwrap();
    let yaml: serde_json::Value = serde_yaml::from_str(&text).unwrap();
    let faults: Vec<String> = schema.iter_errors(&yaml).map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn the_schema_refuses_what_the_program_refuses() {
    let schema = jsonschema::validator_for(&config::schema::schema(Support::Built)).unwrap();
    for text in [
        "upstream: {}",
        "upstreams: { web: { backends: [a:1], wieght: 3 } }",
        "upstreams: { web: { backends: [a:1], timeouts: { connect: 3 } } }",
        "upstreams: { web: { backends: [a:1], protocol: h3 } }",
        "drain: { delay: 3 s }",
        "log: { level: loud }",
        "server: { threads: 0 }",
    ] {
        assert!(config::load_text("t", text, &environment).is_err(), "{text}");
        let yaml: serde_json::Value = serde_yaml::from_str(text).unwrap();
        assert!(!schema.is_valid(&yaml), "{text}");
    }
}

#[test]
fn the_manual_says_what_the_program_does() {
    let page = config::reference::render(Support::Built);
    if is_update() {
        fs::write("docs/configuration.md", &page).unwrap();
    }
    let written = fs::read_to_string("docs/configuration.md").unwrap_or_default();
    assert!(written == page, "docs/configuration.md is stale: run UPDATE_EXPECTED=1 cargo test --test config");
}

#[test]
fn every_key_of_pingora_is_known_to_the_server_section() {
    let pingora = serde_yaml::to_value(pingora_core::server::configuration::ServerConf::default()).unwrap();
    for key in pingora.as_mapping().unwrap().keys() {
        let key = key.as_str().unwrap();
        assert!(Server::KEYS.contains(&key), "`server.{key}` is a key of Pingora's, and unknown here");
    }
}

#[test]
fn two_files_that_mean_the_same_have_the_same_hash() {
    let hash = |name: &str, text: &str| config::load_text(name, text, &environment).unwrap().plan.hash;
    let written = hash("a", "upstreams: { web: { backends: [127.0.0.1:8081], timeouts: { connect: 3000ms } } }");
    let default = hash("b", "upstreams:\n  web:\n    backends:\n      - address: 127.0.0.1:${PORT}\n");
    let other = hash("a", "upstreams: { web: { backends: [127.0.0.1:8082] } }");
    assert_eq!(written, default);
    assert_ne!(written, other);
}

#[test]
fn a_variable_can_never_add_a_key() {
    let text = "upstreams: { web: { backends: [{ address: 'a:1', weight: '${EVIL}' }] } }";
    let faults = config::load_text("t", text, &environment).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults}");
}

#[test]
fn a_file_that_is_no_text_or_too_large_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("conf.yaml");
    let refuse = |bytes: &[u8], expected: &str| {
        fs::write(&path, bytes).unwrap();
        let faults = config::load(&path, &environment).unwrap_err().to_string();
        assert!(faults.contains(expected), "{faults}");
    };
    refuse(b"a: b\n\xff\xfe", "line 2 is not UTF-8");
    refuse(&vec![b'#'; 16 * 1024 * 1024 + 1], "larger than 16MiB");
    refuse("[".repeat(200).as_bytes(), "nested deeper");
    refuse(bomb().as_bytes(), "more than 2000000 values");
    let faults = config::load(directory.path(), &environment).unwrap_err().to_string();
    assert!(faults.contains("not a regular file"), "{faults}");
}

#[test]
fn a_large_hostile_file_is_told_in_bounds() {
    let one_line = format!("upstreams: {{ web: {{ backends: [{}] }} }}", "{ weight: x }, ".repeat(20_000));
    let faults = config::load_text("t", &one_line, &environment).unwrap_err();
    assert_eq!(faults.len(), config::diagnostic::MOST);
    assert!(faults.iter().all(|fault| fault.place.as_ref().is_some_and(|place| place.text.len() <= 160)));
    let long = format!("a: &a {}\nb: [{}]", "x".repeat(1_000_000), "*a, ".repeat(100));
    let faults = config::load_text("t", &long, &environment).unwrap_err().to_string();
    assert!(faults.contains("more than 16MiB") && faults.len() < 2_000, "{faults}");
    let backends: String = (0..65_536).map(|n| format!("10.0.{}.{}:80, ", n / 256, n % 256)).collect();
    let faults = config::load_text("t", &format!("upstreams: {{ web: {{ backends: [{backends}] }} }}"), &environment);
    assert!(faults.unwrap_err().to_string().contains("65536 backends are too many"));
}

/// Aliases of aliases: ten to the ninth values in a few lines.
fn bomb() -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    text
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let text = "\u{feff}upstreams: { web: { backends: [127.0.0.1:8081] } }";
    assert!(config::load_text("t", text, &environment).is_ok());
}

#[test]
fn the_defaults_are_those_of_the_manual() {
    let text = "upstreams:\n  web:\n    backends: [127.0.0.1:8081, 127.0.0.1:8082]\n";
    let environment = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| "/run/user/1000".to_owned());
    let plan = config::load_text("demo", text, &environment).unwrap().plan;
    let expected = fs::read_to_string("tests/config/defaults.json").unwrap_or_default();
    let mut dump = config::dump::dump(&plan);
    dump["server"]["threads"] = "cores".into();
    let told = serde_json::to_string_pretty(&dump).unwrap() + "\n";
    if is_update() {
        fs::write("tests/config/defaults.json", &told).unwrap();
    }
    assert!(told == expected || is_update(), "{told}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(text in ".*") {
        let _ = config::load_text_with("t", &text, &environment, Support::Everything);
    }

    #[test]
    fn no_yaml_makes_the_reader_panic(text in "[a-c:\\-\\[\\]{}&*!|>'\"%@`#, \n\t$?~0-9]{0,80}") {
        let _ = config::load_text_with("t", &text, &environment, Support::Everything);
    }

    #[test]
    fn no_value_of_a_known_key_makes_the_check_panic(key in 0..KEYS.len(), value in VALUES) {
        let text = format!("upstreams: {{ web: {{ backends: [a:1] }} }}\n{}", KEYS[key].replace('@', &value));
        let _ = config::load_text_with("t", &text, &environment, Support::Everything);
    }
}

/// Requests that meet every pattern of the tables below.
fn requests() -> impl Iterator<Item = (&'static str, &'static str, &'static str, bool)> {
    let hosts = ["a.example", "b.example", "x.b.example", "other.test"];
    let paths = ["/", "/u", "/u/", "/u/7", "/u/v", "/u7", "/w", "*"];
    let pairs = hosts.into_iter().flat_map(move |host| paths.into_iter().map(move |path| (host, path)));
    let triples = pairs.flat_map(|(host, path)| ["GET", "POST"].map(|method| (host, path, method)));
    triples.flat_map(|(host, path, method)| [true, false].map(|beta| (host, path, method, beta)))
}

fn serves(pattern: Option<&HostPattern>, host: &str) -> bool {
    match pattern {
        None => true,
        Some(HostPattern::Exact(own)) => **own == *host,
        Some(HostPattern::Wildcard(suffix)) => host.ends_with(&**suffix),
    }
}

proptest! {
    #[test]
    fn a_match_that_is_told_never_to_win_never_wins(table in proptest::collection::vec((0usize..5, 0usize..10, 0usize..3, 0usize..2), 2..7)) {
        let hosts = ["", "hosts: a.example, ", "hosts: '*.example', ", "hosts: '*.b.example', ", "hosts: b.example, "];
        let paths = [
            "path: /u", "path: /u/", "path_prefix: /u", "path_prefix: /", "path_prefix: /u/v", "path_regex: '^/u/[0-9]+$'",
            "path_regex: '^/u.*$'", "path_regex: ^/u/", "path_regex: 'u|w'", "path_regex: '^/u/?'",
        ];
        let methods = ["", ", method: GET", ", method: [GET, POST]"];
        let headers = ["", ", headers: { x-beta: '1' }"];
        let mut text = "upstreams: { web: { backends: [127.0.0.1:1] } }\nroutes:\n".to_owned();
        for (index, (host, path, method, header)) in table.iter().enumerate() {
            let matched = format!("{}{}{}", paths[*path], methods[*method], headers[*header]);
            text.push_str(&format!("  - {{ name: r{index}, {}match: {{ {matched} }}, to: web }}\n", hosts[*host]));
        }
        // Tables that claim the same twice are refused.
        let Ok(loaded) = config::load_text_with("t", &text, &environment, Support::Everything) else { return Ok(()) };
        let routes = RouteTable::build(&loaded.plan.routes);
        let covered = covered(&loaded.plan.routes);
        for (host, path, method, beta) in requests() {
            let mut fields = http::HeaderMap::new();
            fields.extend(beta.then(|| (http::HeaderName::from_static("x-beta"), http::HeaderValue::from_static("1"))));
            let request = RequestView { method, scheme: Scheme::Http, host, path, query: None, client: None, fields: &fields };
            let Some(found) = routes.find(&request, &NormalPath::new(path).unwrap()) else { continue };
            let wrong = covered.iter().find(|one| {
                one.route == found.route.name && one.hosts.iter().any(|(pattern, _)| serves(pattern.as_ref(), host))
            });
            prop_assert!(wrong.is_none(), "{text}\n{wrong:?}\n{method} {host} {path} {beta}");
        }
    }
}

const VALUES: &str =
    "none|[0-9]{1,20}(s|KiB|%)?|\\[[a-z0-9, ]{0,10}\\]|\\{ [a-z_]{1,9}: [a-z0-9.:/]{1,9} \\}|[ -~]{0,12}";

const KEYS: [&str; 12] = [
    "server: { threads: @ }",
    "server: @",
    "drain: { delay: @ }",
    "errors: { 503: @ }",
    "listeners: [{ address: @ }]",
    "listeners: [{ address: 127.0.0.1:1, limits: @ }]",
    "routes: [{ match: @, to: web }]",
    "routes: [{ match: { path_regex: @ }, to: web }]",
    "routes: [{ filters: [@], to: web }]",
    "admin: @",
    "access_log: { format: @ }",
    "include: @",
];
