//! `cargo xtask tidy`: the rules of the house that the compiler does not check.
//!
//! - crates depend on each other only along the arrows of [`ARROWS`];
//! - every module says at its top what it is for;
//! - nothing is left over: markers of unfinished work, debugging output, ignored tests;
//! - only the printer and the development programs print, only the binary reads the environment;
//! - no path of somebody's machine stands in the project;
//! - every error code has its page and every page its code, once there are pages.
//!
//! Reads text, not syntax: a rule that needs syntax belongs to clippy.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Outcome;

/// Crate, and the crates of the house it may depend on. `*` is every crate but the development ones.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("archive", &[]),
    ("basebackup", &[]),
    ("rdb", &[]),
    ("pgdump", &[]),
    ("store", &["model"]),
    ("journal", &["model", "store"]),
    ("guard", &["journal", "model", "store"]),
    ("repository", &["journal", "model", "store"]),
    ("indexes", &["model"]),
    ("migrations", &["model"]),
    ("engine", &["guard", "indexes", "migrations", "model"]),
    ("tls", &["model"]),
    ("mongo", &["engine", "guard", "indexes", "model", "tls"]),
    ("postgres", &["engine", "guard", "migrations", "model", "tls"]),
    ("redis", &["engine", "guard", "model", "rdb", "tls"]),
    (
        "ops",
        &[
            "archive",
            "basebackup",
            "engine",
            "guard",
            "indexes",
            "journal",
            "migrations",
            "model",
            "pgdump",
            "rdb",
            "repository",
        ],
    ),
    ("mainstay", &["*"]),
    ("marketplace", &[]),
    ("testkit", &[]),
    (
        "fuzzing",
        &["archive", "basebackup", "migrations", "mongo", "ops", "pgdump", "postgres", "rdb", "repository"],
    ),
    ("xtask", &["*", "testkit"]),
];

/// Crates that no shipped code depends on.
const DEVELOPMENT: &[&str] = &["fuzzing", "testkit", "xtask"];

/// Where text is looked at; everything else is built or fetched.
const ROOTS: &[&str] = &["crates", "examples", "docs", ".ci", ".cargo"];

const TEXT: &[&str] = &["rs", "toml", "md", "yaml", "yml", "json", "sh", "sql", "ts", "lock"];

/// Something to put right: where, and what.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    place: String,
    what: String,
}

/// Checks everything and tells all findings at once.
pub(crate) fn run() -> Outcome {
    let root = root();
    let files = read_files(&root)?;
    let mut findings = arrows(&files)?;
    for (path, text) in &files {
        findings.extend(in_file(path, text));
    }
    findings.extend(error_pages(&root, &files));
    for finding in &findings {
        eprintln!("{}: {}", finding.place, finding.what);
    }
    match findings.len() {
        0 => Ok(()),
        count => Err(format!("{count} findings").into()),
    }
}

fn root() -> PathBuf {
    // The tasks live two folders below the workspace.
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace").to_path_buf()
}

/// Texts by path relative to the root, in order.
fn read_files(root: &Path) -> io::Result<BTreeMap<PathBuf, String>> {
    let mut open: Vec<PathBuf> =
        ROOTS.iter().map(|name| root.join(name)).filter(|path| path.exists()).collect();
    open.extend(
        fs::read_dir(root)?.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_file()),
    );
    let mut files = BTreeMap::new();
    while let Some(path) = open.pop() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !matches!(name, "target" | "node_modules") {
                open.extend(fs::read_dir(&path)?.filter_map(Result::ok).map(|entry| entry.path()));
            }
            continue;
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        let is_text = extension.is_none_or(|extension| TEXT.contains(&extension)) && name != "Cargo.lock";
        if let Some(text) = is_text.then(|| fs::read_to_string(&path).ok()).flatten() {
            let relative = path.strip_prefix(root).expect("below the root").to_path_buf();
            files.insert(relative, text);
        }
    }
    Ok(files)
}

fn arrows(files: &BTreeMap<PathBuf, String>) -> Result<Vec<Finding>, Box<dyn std::error::Error>> {
    let mut findings = Vec::new();
    let manifests =
        files.iter().filter(|(path, _)| path.ends_with("Cargo.toml") && path.components().count() == 3);
    for (path, text) in manifests {
        let manifest: toml::Table = text.parse().map_err(|error| format!("{}: {error}", path.display()))?;
        findings.extend(arrows_of(&path.display().to_string(), &manifest));
    }
    Ok(findings)
}

fn arrows_of(place: &str, manifest: &toml::Table) -> Vec<Finding> {
    let finding = |what: String| Finding { place: place.to_owned(), what };
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
    let name = house_name(name.unwrap_or_default());
    let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
        return vec![finding(format!("crate {name} has no row in the table of arrows"))];
    };
    let is_allowed = |to: &str| allowed.contains(&to) || allowed.contains(&"*") && !DEVELOPMENT.contains(&to);
    let mut findings = Vec::new();
    for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
        let named = manifest.get(section).and_then(toml::Value::as_table);
        for to in named.into_iter().flat_map(toml::Table::keys).map(|to| house_name(to)) {
            let in_house = ARROWS.iter().any(|(known, _)| *known == to);
            // Tests may start servers and fill them; a crate of the house never tests itself through an upper floor.
            let for_tests = section == "dev-dependencies" && matches!(to, "testkit" | "marketplace");
            if in_house && to != name && !is_allowed(to) && !for_tests {
                findings.push(finding(format!("{name} may not depend on {to} ({section})")));
            }
        }
    }
    findings
}

/// `mainstay-store` and `store` are both `store`; foreign crates called like one of ours carry no prefix and no path.
fn house_name(package: &str) -> &str {
    match package {
        "mainstay" | "marketplace" | "xtask" => package,
        _ => package.strip_prefix("mainstay-").unwrap_or(""),
    }
}

fn in_file(path: &Path, text: &str) -> Vec<Finding> {
    let shown = path.display().to_string();
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    let is_source = is_rust && path.components().any(|part| part.as_os_str() == "src");
    let mut findings = Vec::new();
    if is_source && !text.trim_start().starts_with("//!") {
        findings.push(Finding {
            place: shown.clone(),
            what: "does not say at its top what it is for (`//!`)".to_owned(),
        });
    }
    for (number, line) in text.lines().enumerate() {
        let mut found =
            |what: String| findings.push(Finding { place: format!("{shown}:{}", number + 1), what });
        if let Some(marker) = leftover(line, is_rust) {
            found(format!("left over: {marker}"));
        }
        if let Some(place) = machine_path(line) {
            found(format!("a path of a machine: {place}"));
        }
        if is_source
            && !may_print(path)
            && let Some(what) = prints(line)
        {
            found(format!("only the printer prints: {what}"));
        }
        if is_source
            && !may_read_environment(path)
            && let Some(what) = reads_environment(line)
        {
            found(format!("only the binary reads the environment: {what}"));
        }
    }
    findings
}

// The needles are put together here, so that this file does not find itself.

fn leftover(line: &str, is_rust: bool) -> Option<&'static str> {
    const MARKERS: &[&str] =
        &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
    const CODE: &[&str] = &[
        concat!("dbg", "!("),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ign", "ore"),
    ];
    let is_word = |marker: &&&str| line.split(|c: char| !c.is_alphanumeric()).any(|word| word == **marker);
    let marker = MARKERS.iter().find(is_word);
    marker.or_else(|| CODE.iter().find(|code| is_rust && line.contains(**code))).copied()
}

fn machine_path(line: &str) -> Option<&'static str> {
    const PLACES: &[&str] =
        &[concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];
    // A path begins a word; `https://host/home/` and `a/home/b` are none.
    PLACES.iter().copied().find(|place| {
        line.match_indices(place).any(|(at, _)| {
            !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | '>'))
        })
    })
}

fn prints(line: &str) -> Option<&'static str> {
    const WAYS: &[&str] = &[
        concat!("print", "ln!("),
        concat!("print", "!("),
        concat!("io::std", "out()"),
        concat!("io::std", "err()"),
    ];
    WAYS.iter().copied().find(|way| !is_comment(line) && line.contains(way))
}

fn reads_environment(line: &str) -> Option<&'static str> {
    const WAYS: &[&str] = &[
        concat!("env::", "var("),
        concat!("env::", "var_os("),
        concat!("env::", "vars("),
        concat!("env::", "args("),
    ];
    WAYS.iter().copied().find(|way| !is_comment(line) && line.contains(way))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn may_print(path: &Path) -> bool {
    let is_printer =
        path.components().any(|part| Path::new(part.as_os_str()).file_stem() == Some("printer".as_ref()));
    let is_program = path.starts_with("crates/mainstay") || path.starts_with("examples/marketplace");
    is_printer && is_program || path.starts_with("crates/xtask") || path.starts_with("crates/fuzzing")
}

fn may_read_environment(path: &Path) -> bool {
    ["crates/mainstay", "crates/xtask", "crates/testkit", "examples/marketplace/src/bin"]
        .iter()
        .any(|crate_path| path.starts_with(crate_path))
}

/// Codes such as `MS0001` in sources against `docs/errors/MS0001.md`, both ways.
fn error_pages(root: &Path, files: &BTreeMap<PathBuf, String>) -> Vec<Finding> {
    let folder = Path::new("docs/errors");
    if !root.join(folder).is_dir() {
        return Vec::new();
    }
    let pages: BTreeSet<String> = files
        .keys()
        .filter(|path| path.starts_with(folder))
        .filter_map(|path| path.file_stem()?.to_str().map(str::to_owned))
        .filter(|name| is_code(name))
        .collect();
    let codes: BTreeSet<String> = files
        .iter()
        .filter(|(path, _)| {
            path.starts_with("crates") && path.extension().is_some_and(|extension| extension == "rs")
        })
        .flat_map(|(_, text)| text.split(|c: char| !c.is_alphanumeric()).filter(|word| is_code(word)))
        .map(str::to_owned)
        .collect();
    let without_page = codes.difference(&pages).map(|code| Finding {
        place: folder.join(format!("{code}.md")).display().to_string(),
        what: format!("{code} is used and has no page"),
    });
    let without_code = pages.difference(&codes).map(|code| Finding {
        place: folder.join(format!("{code}.md")).display().to_string(),
        what: format!("no source uses {code}"),
    });
    without_page.chain(without_code).collect()
}

fn is_code(word: &str) -> bool {
    word.strip_prefix("MS")
        .is_some_and(|digits| digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn judged(manifest: &str) -> Vec<String> {
        arrows_of("Cargo.toml", &manifest.parse().unwrap()).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn arrows_point_down_only() {
        let manifest = |name: &str, section: &str, to: &str| {
            format!(
                "[package]\nname = \"{name}\"\n[{section}]\n{to}.workspace = true\nserde.workspace = true\n"
            )
        };
        assert!(judged(&manifest("mainstay-store", "dependencies", "mainstay-model")).is_empty());
        assert!(judged(&manifest("mainstay-store", "dev-dependencies", "mainstay-testkit")).is_empty());
        assert!(judged(&manifest("mainstay-redis", "dependencies", "redis")).is_empty());
        assert!(judged(&manifest("mainstay", "dependencies", "mainstay-mongo")).is_empty());
        for (name, section, to) in [
            ("mainstay-model", "dependencies", "mainstay-store"),
            ("mainstay-ops", "dependencies", "mainstay-mongo"),
            ("mainstay-mongo", "dev-dependencies", "mainstay-ops"),
            ("mainstay", "dependencies", "mainstay-testkit"),
            ("mainstay-testkit", "dependencies", "mainstay-model"),
            ("mainstay-newcomer", "dependencies", "mainstay-model"),
        ] {
            assert_eq!(judged(&manifest(name, section, to)).len(), 1, "{name} {section} {to}");
        }
    }

    fn found(path: &str, text: &str) -> Vec<String> {
        in_file(Path::new(path), text).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn modules_say_what_they_are_for() {
        assert!(found("crates/model/src/lib.rs", "//! Values.\n").is_empty());
        assert_eq!(found("crates/model/src/lib.rs", "use std::fs;\n").len(), 1);
        assert!(found("crates/model/tests/a.rs", "use std::fs;\n").is_empty());
    }

    #[test]
    fn leftovers_are_words_not_parts_of_words() {
        assert!(leftover(concat!("// TO", "DO: later"), true).is_some());
        assert!(leftover(concat!("#[ign", "ore]"), true).is_some());
        assert!(leftover("fn mastodon() {}", true).is_none());
        assert!(leftover(concat!("x.dbg", "!("), false).is_none());
    }

    #[test]
    fn printing_and_environment_have_their_places() {
        let text = concat!("//! Doc.\nfn f() { print", "ln!(\"x\"); }\n");
        assert_eq!(found("crates/ops/src/lib.rs", text).len(), 1);
        assert!(found("crates/mainstay/src/printer.rs", text).is_empty());
        assert!(found("crates/ops/tests/a.rs", text).is_empty());
        let text = concat!("//! Doc.\nlet x = std::env::", "var(\"X\");\n");
        assert_eq!(found("crates/model/src/lib.rs", text).len(), 1);
        assert!(found("crates/mainstay/src/main.rs", text).is_empty());
    }

    #[test]
    fn paths_of_machines_are_found() {
        assert!(machine_path(concat!("let x = \"/ro", "ot/.cache\";")).is_some());
        assert!(machine_path(concat!("see https://host.example/ho", "me/page")).is_none());
        assert!(machine_path("<repository>/home/file").is_none());
    }

    #[test]
    fn codes_are_two_letters_and_four_digits() {
        assert!(is_code("MS0001"));
        assert!(!is_code("MS001") && !is_code("MS0001x") && !is_code("XS0001"));
    }
}
