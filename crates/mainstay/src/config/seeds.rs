//! The manifest of seeds and the files that it names, read when a command asks for them.
//!
//! `[[seed]]` declares one: `id`, `class`, `store`, `into`, `key`, `file`, and `automatic` for what a new installation gets by itself. `[auto]` says
//! who counts as a user there. Files are named relative to the manifest. An unknown key is an error; nothing in a manifest is secret.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mainstay_engine::{NewcomerRule, SeedPlace};
use mainstay_model::{Blake3, ByteSize, Error, ErrorKind, Result, StoreKind};
use mainstay_ops::seed::{DeclaredSeed, Seed, SeedClass, SeedFile, read_rows};
use serde::Deserialize;

use crate::bounded;

/// The longest manifest that is read.
const MANIFEST_BYTES_MAX: u64 = 1024 * 1024;
/// The longest file of rows.
const ROWS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What is declared.
#[derive(Debug)]
pub(crate) struct SeedManifest {
    /// Where the manifest is.
    path: PathBuf,
    /// The seeds in the order in which they are written.
    pub(crate) seeds: Vec<DeclaredSeed>,
    /// Who counts as a user of a new installation, and in which store.
    pub(crate) auto: Option<(StoreKind, NewcomerRule)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    auto: Option<Auto>,
    #[serde(default, rename = "seed")]
    seeds: Vec<Declared>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Auto {
    store: StoreKind,
    users: String,
    field: String,
    administrator: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    id: String,
    class: SeedClass,
    store: StoreKind,
    into: String,
    key: Vec<String>,
    file: String,
    #[serde(default)]
    automatic: bool,
}

impl SeedManifest {
    /// Reads the manifest at `path`.
    ///
    /// # Errors
    /// `Config`, naming the file and, where it can be told, the line.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = bounded::read_text(path, MANIFEST_BYTES_MAX).map_err(|source| {
            Error::new(ErrorKind::Config, format!("cannot read the declared seeds in {name}"))
                .with_source(source)
                .with_hint("correct `file` in [seeds] of mainstay.toml; docs/seeds.md says what stands in it")
        })?;
        let text = text.ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("{name} is too long for a file of declared seeds"))
        })?;
        let manifest: Manifest = toml::from_str(&text).map_err(|error| {
            let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
            let line = 1 + before.matches('\n').count();
            Error::new(ErrorKind::Config, format!("{name}:{line}: {}", error.message()))
        })?;
        let seeds = manifest.seeds.into_iter().map(Declared::checked).collect::<Result<Vec<_>, _>>();
        let seeds = seeds.map_err(|what| Error::new(ErrorKind::Config, format!("{name}: {what}")))?;
        let mut ids = BTreeSet::new();
        if let Some(twice) = seeds.iter().find(|seed| !ids.insert(seed.id.as_str())) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{name}: seed {} is declared twice", twice.id),
            ));
        }
        let auto = manifest.auto.map(|auto| {
            let Auto { store, users, field, administrator } = auto;
            (store, NewcomerRule { users, field, administrator })
        });
        Ok(Self { path: path.to_owned(), seeds, auto })
    }

    /// The seeds with these names, in the order of the manifest; all when none is named.
    ///
    /// # Errors
    /// `Usage` when there is none of a name.
    pub(crate) fn chosen(&self, names: &[String]) -> Result<Vec<&DeclaredSeed>> {
        if let Some(unknown) = names.iter().find(|name| !self.seeds.iter().any(|seed| seed.id == **name)) {
            let known = self.seeds.iter().map(|seed| seed.id.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::new(ErrorKind::Usage, format!("no seed is called {unknown}"))
                .with_state("nothing was changed")
                .with_hint(format!("declared in {} are: {known}", self.path.display())));
        }
        Ok(self.seeds.iter().filter(|seed| names.is_empty() || names.contains(&seed.id)).collect())
    }

    /// The seed with the rows of its file.
    ///
    /// # Errors
    /// `Config`, naming the file and the row or line.
    pub(crate) fn load(&self, declared: &DeclaredSeed) -> Result<Seed> {
        let path = self.path.parent().unwrap_or(Path::new("")).join(&declared.file);
        let refuse = |what: String| {
            Error::new(ErrorKind::Config, format!("{}: {what}", path.display()))
                .with_state("nothing was changed")
                .with_hint(format!("correct the file of seed {}", declared.id))
        };
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Err(refuse("it is no regular file".to_owned()));
        }
        let bytes = bounded::read(&path, ROWS_BYTES_MAX).map_err(|error| refuse(error.to_string()))?;
        let bytes = bytes.ok_or_else(|| refuse(format!("it is longer than {}", ByteSize(ROWS_BYTES_MAX))))?;
        let blake3 = Blake3::of(&bytes);
        let text = String::from_utf8(bytes).map_err(|_| refuse("it is no text of UTF-8".to_owned()))?;
        let rows = read_rows(&declared.file, &text, declared.store, &declared.place)
            .map_err(|error| refuse(error.to_string()))?;
        Ok(Seed { declared: declared.clone(), file: SeedFile { blake3, rows } })
    }
}

impl Declared {
    fn checked(self) -> Result<DeclaredSeed, String> {
        let Self { id, class, store, into, key, file, automatic } = self;
        let is_name = |text: &str| !text.is_empty() && !text.contains(['\0', '$']);
        let is_id = !id.is_empty() && id.chars().all(|one| one.is_alphanumeric() || "-_".contains(one));
        let fault = match () {
            () if !is_id => "its id is not made of letters, digits, `-` and `_`",
            () if store == StoreKind::Redis => "its store is redis, which no seed goes into",
            () if !is_name(&into) => "`into` names nothing that rows could go into",
            () if into.starts_with("system.") => "`into` is the server's own",
            () if key.is_empty() || !key.iter().all(|field| is_name(field)) => "`key` names no fields",
            () if file.is_empty() => "`file` names no file",
            () if automatic && class == SeedClass::Destructive => {
                "it is destructive and `automatic`: what replaces data is run by a person"
            }
            () => {
                let place = SeedPlace { into, key };
                return Ok(DeclaredSeed { id, class, store, place, file, is_automatic: automatic });
            }
        };
        Err(format!("seed {id}: {fault}"))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SeedManifest> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seeds.toml");
        std::fs::write(&path, text).unwrap();
        SeedManifest::read(&path)
    }

    const SEED: &str = "[[seed]]\nid = \"levels\"\nclass = \"reference\"\nstore = \"mongo\"\ninto = \"levels\"\nkey = [\"_id\"]\nfile = \"levels.json\"\n";

    #[test]
    fn seeds_are_read_in_their_order() {
        let text = format!(
            "[auto]\nstore = \"mongo\"\nusers = \"users\"\nfield = \"role\"\nadministrator = \"admin\"\n{SEED}{}",
            SEED.replace("levels", "categories")
        );
        let manifest = read(&text).unwrap();
        let ids = |seeds: Vec<&DeclaredSeed>| seeds.iter().map(|seed| seed.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(manifest.chosen(&[]).unwrap()), ["levels", "categories"]);
        let named = ["categories", "levels"].map(str::to_owned);
        assert_eq!(ids(manifest.chosen(&named).unwrap()), ["levels", "categories"], "not in the order typed");
        assert_eq!(manifest.chosen(&["users".to_owned()]).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(manifest.auto.unwrap().1.administrator, "admin");
    }

    #[test]
    fn faults_name_file_and_place() {
        for (text, expected) in [
            (format!("{SEED}colour = 1\n"), "seeds.toml:8: unknown field `colour`"),
            (SEED.replace("reference", "optional"), "seeds.toml:3: unknown variant `optional`"),
            (SEED.replace("mongo", "redis"), "seed levels: its store is redis"),
            (SEED.replace("[\"_id\"]", "[]"), "seed levels: `key` names no fields"),
            (format!("{SEED}{SEED}"), "seed levels is declared twice"),
            (
                format!("{}automatic = true\n", SEED.replace("reference", "destructive")),
                "it is destructive and `automatic`",
            ),
        ] {
            let error = read(&text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
