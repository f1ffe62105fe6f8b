//! The manifest's grammar, read: `[mongo.indexes]` and `[mongo.policy]` of a TOML file, or `[indexes]` and `[policy]` of a file of its own.
//!
//! Everything is checked here: an unknown word, a value of another type, two declarations of the same index or of the same name. Errors
//! name the line and what would do.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::collation::Collation;
use crate::declared::{Allowance, Assertion, DeclaredIndex, Manifest, Policy, Undeclared};
use crate::json::Json;
use crate::keys::{Key, KeyKind};

/// A manifest that cannot be read: where, what, and what would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// The line, from 1.
    pub line: usize,
    /// One line about what is wrong.
    pub message: String,
    /// What to write.
    pub hint: Option<String>,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for ManifestError {}

type Table<'a> = DeTable<'a>;
type Item<'a> = Spanned<DeValue<'a>>;

impl Manifest {
    /// Reads the text of a file. A file without either section declares nothing.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let reader = Reader { text };
        let (document, errors) = DeTable::parse_recoverable(text);
        if let Some(first) = errors.iter().min_by_key(|error| error.span().map_or(0, |span| span.start)) {
            let at = first.span().map_or(0, |span| span.start);
            return Err(reader.error(at, format!("not valid TOML: {}", first.message())));
        }
        let root = document.get_ref();
        let holder = root.get("mongo").and_then(|mongo| mongo.get_ref().as_table()).unwrap_or(root);
        let mut manifest = Self::default();
        // `[mongo] indexes` may also be the name of the file that holds them.
        if let Some(indexes) = holder.get("indexes").filter(|item| item.get_ref().as_str().is_none()) {
            reader.indexes(reader.table(indexes, "indexes")?, &mut manifest)?;
        }
        if let Some(policy) = holder.get("policy") {
            manifest.policy = reader.policy(reader.table(policy, "policy")?)?;
        }
        Ok(manifest)
    }
}

struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn error(&self, at: usize, message: impl Into<String>) -> ManifestError {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        ManifestError { line, message: message.into(), hint: None }
    }

    fn wrong(&self, item: &Item<'_>, message: impl Into<String>, hint: impl Into<String>) -> ManifestError {
        ManifestError { hint: Some(hint.into()), ..self.error(item.span().start, message) }
    }

    fn table<'t, 'i>(&self, item: &'t Item<'i>, name: &str) -> Result<&'t Table<'i>, ManifestError> {
        item.get_ref().as_table().ok_or_else(|| {
            self.wrong(
                item,
                format!("`{name}` is a section"),
                format!("write [mongo.{name}] and its keys on lines of their own"),
            )
        })
    }

    fn indexes(&self, table: &Table<'_>, manifest: &mut Manifest) -> Result<(), ManifestError> {
        for (collection, item) in table {
            let name = collection.get_ref().to_string();
            if !is_collection_name(&name) {
                let message = format!("`{}` is no name of a collection of yours", name.escape_debug());
                let hint = "name the collection as the server lists it, without its database".to_owned();
                return Err(ManifestError {
                    hint: Some(hint),
                    ..self.error(collection.span().start, message)
                });
            }
            let example = || format!("write `{name} = [{{ keys = [\"field\"] }}]`");
            let list = item
                .get_ref()
                .as_array()
                .ok_or_else(|| self.wrong(item, format!("the indexes of `{name}` are a list"), example()))?;
            let mut declared: Vec<DeclaredIndex> = Vec::new();
            for item in list.iter() {
                let entry = item.get_ref().as_table().ok_or_else(|| {
                    self.wrong(item, format!("an index of `{name}` is a table with `keys`"), example())
                })?;
                let index = self.index(item, entry)?;
                if let Some(same) = declared.iter().find(|known| clash(known, &index)) {
                    let message = format!("`{name}` declares the index {} twice", same.name());
                    return Err(self.wrong(
                        item,
                        message,
                        "remove one, or give one a `name` and options of its own",
                    ));
                }
                declared.push(index);
            }
            manifest.collections.insert(name, declared);
        }
        Ok(())
    }

    fn index(&self, whole: &Item<'_>, entry: &Table<'_>) -> Result<DeclaredIndex, ManifestError> {
        let keys = entry.get("keys").ok_or_else(|| {
            self.wrong(
                whole,
                "an index without `keys`",
                "write `keys = [\"field\", \"-descending\", \"words:text\"]`",
            )
        })?;
        let mut index = DeclaredIndex::new(self.keys(keys)?);
        for (name, item) in entry {
            match name.get_ref().as_ref() {
                "keys" => {}
                "name" => index.name = Some(self.string(item, "name")?),
                "was" => index.was = Some(self.string(item, "was")?),
                "pin" => index.pinned = self.switch(item, "pin")?,
                "multikey" => index.multikey = Some(self.switch(item, "multikey")?),
                "assert" => {
                    index.asserts = self.words(item, "assert", &Assertion::ALL, |word| word.name())?
                }
                "allow" => index.allows = self.words(item, "allow", &Allowance::ALL, |word| word.name())?,
                "collation" => {
                    let document = self.document(item, "collation")?;
                    let collation = Collation::of_document(&document).map_err(|what| {
                        self.wrong(item, what, "write `collation = { locale = \"en\", strength = 2 }`")
                    })?;
                    index.collation = Some(collation);
                }
                option => self.option(option, item, &mut index)?,
            }
        }
        self.check(whole, &index)?;
        Ok(index)
    }

    fn option(&self, option: &str, item: &Item<'_>, index: &mut DeclaredIndex) -> Result<(), ManifestError> {
        let (name, value) = match option {
            "unique" | "sparse" | "hidden" => (option, Json::Flag(self.switch(item, option)?)),
            "ttl" => (
                "expireAfterSeconds",
                Json::Integer(i64::try_from(self.seconds(item, "ttl")?).unwrap_or(i64::MAX)),
            ),
            "partial" => ("partialFilterExpression", self.document(item, "partial")?),
            "weights" => ("weights", self.document(item, "weights")?),
            "wildcard" => ("wildcardProjection", self.document(item, "wildcard")?),
            "language" => ("default_language", Json::Text(self.string(item, "language")?)),
            "language_override" => ("language_override", Json::Text(self.string(item, "language_override")?)),
            "options" => {
                let document = self.document(item, "options")?;
                for (name, value) in document.members().into_iter().flatten() {
                    self.set(item, index, name, value)?;
                }
                return Ok(());
            }
            other => {
                return Err(self.wrong(
                    item,
                    format!("an index has no `{other}`"),
                    "known: keys, name, unique, sparse, partial, ttl, collation, weights, language, language_override, wildcard, hidden, \
                     options, multikey, assert, allow, pin, was",
                ));
            }
        };
        self.set(item, index, name, &value)
    }

    fn set(
        &self,
        item: &Item<'_>,
        index: &mut DeclaredIndex,
        name: &str,
        value: &Json,
    ) -> Result<(), ManifestError> {
        index.options_mut().set(name, value).map_err(|error| self.error(item.span().start, error.to_string()))
    }

    /// What no server would take, told before one is asked.
    fn check(&self, whole: &Item<'_>, index: &DeclaredIndex) -> Result<(), ManifestError> {
        let options = index.options();
        let name = index.name();
        if name == "*" || name == "_id_" || name.contains('\0') {
            return Err(self.wrong(
                whole,
                format!("`{}` is no name that an index can have", name.escape_debug()),
                "leave `name` out, or write another one",
            ));
        }
        if options.is_ttl() && (index.keys.len() != 1 || !options.can_collate()) {
            return Err(self.wrong(
                whole,
                format!("{name} has a `ttl`, which an index of one plain field can have"),
                "declare an index of the date's field alone",
            ));
        }
        if options.sparse && options.partial.is_some() {
            return Err(self.wrong(
                whole,
                format!("{name} is both `sparse` and `partial`"),
                "say it in the `partial` filter: `{ field = { \"$exists\" = true } }`",
            ));
        }
        if options.ttl_seconds.is_some_and(|seconds| !(0..=crate::TTL_NEVER).contains(&seconds)) {
            return Err(self.wrong(
                whole,
                format!("the `ttl` of {name} is out of bounds"),
                "write from \"0s\" to \"24855d\"",
            ));
        }
        if index.keys == [Key::new("_id", KeyKind::Ascending)] {
            return Err(self.wrong(
                whole,
                "the index on `_id` is the server's own",
                "remove it from the manifest",
            ));
        }
        let asserts_null = index.asserts.contains(&Assertion::NoExplicitNull);
        if asserts_null && !options.sparse && options.partial.is_none() {
            return Err(self.wrong(
                whole,
                format!("{name} asserts `no-explicit-null` and is not `sparse`"),
                "add `sparse = true`, or remove the assertion",
            ));
        }
        Ok(())
    }

    fn keys(&self, item: &Item<'_>) -> Result<Vec<Key>, ManifestError> {
        let example = "write `keys = [\"field\", \"-descending\", \"words:text\"]`, and odd fields as `{ \"a:b\" = 1 }`";
        let list = item.get_ref().as_array().filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| self.wrong(item, "`keys` is a list of fields", example))?;
        let mut keys: Vec<Key> = Vec::new();
        for item in list.iter() {
            let key = match item.get_ref() {
                DeValue::String(text) => text
                    .parse()
                    .map_err(|error: crate::ParseKeyError| self.wrong(item, error.to_string(), example))?,
                DeValue::Table(_) => {
                    let document = self.document(item, "keys")?;
                    let pair = document.members().filter(|pair| pair.len() == 1).and_then(<[_]>::first);
                    let (field, value) =
                        pair.ok_or_else(|| self.wrong(item, "a key is one field with one value", example))?;
                    Key::of_pair(field, value)
                }
                _ => return Err(self.wrong(item, "`keys` is a list of fields", example)),
            };
            if !is_field(&key.field) {
                return Err(self.wrong(
                    item,
                    format!("`{}` is no field that can be indexed", key.field.escape_debug()),
                    "write the names on the way to it between points, none of them empty or with `$` before it; `$**` stands for all below",
                ));
            }
            if keys.iter().any(|known| known.field == key.field) {
                return Err(self.wrong(
                    item,
                    format!("`{}` is named twice", key.field),
                    "name each field once",
                ));
            }
            keys.push(key);
        }
        Ok(keys)
    }

    fn policy(&self, table: &Table<'_>) -> Result<Policy, ManifestError> {
        let mut policy = Policy::default();
        for (name, item) in table {
            match name.get_ref().as_ref() {
                "undeclared" => {
                    let word = self.string(item, "undeclared")?;
                    policy.undeclared =
                        self.word(item, "undeclared", &word, &Undeclared::ALL, |word| word.name())?;
                }
                "hide_for" => policy.hide_seconds = self.seconds(item, "hide_for")?,
                "watch_for" => policy.watch_seconds = self.seconds(item, "watch_for")?,
                "max_expire" => policy.expire_max = self.count(item, "max_expire")?,
                "ignore" => policy.ignore = self.strings(item, "ignore")?,
                other => {
                    return Err(self.wrong(
                        item,
                        format!("[mongo.policy] has no `{other}`"),
                        "known: undeclared, hide_for, watch_for, max_expire, ignore",
                    ));
                }
            }
        }
        Ok(policy)
    }

    fn string(&self, item: &Item<'_>, name: &str) -> Result<String, ManifestError> {
        let text = item.get_ref().as_str().filter(|text| !text.is_empty());
        text.map(str::to_owned).ok_or_else(|| self.error(item.span().start, format!("`{name}` must be text")))
    }

    fn strings(&self, item: &Item<'_>, name: &str) -> Result<Vec<String>, ManifestError> {
        let list = item.get_ref().as_array();
        let list =
            list.ok_or_else(|| self.error(item.span().start, format!("`{name}` must be a list of text")))?;
        list.iter().map(|item| self.string(item, name)).collect()
    }

    fn switch(&self, item: &Item<'_>, name: &str) -> Result<bool, ManifestError> {
        item.get_ref()
            .as_bool()
            .ok_or_else(|| self.error(item.span().start, format!("`{name}` must be true or false")))
    }

    fn count(&self, item: &Item<'_>, name: &str) -> Result<u64, ManifestError> {
        let number = match value_of(item.get_ref()) {
            Some(Json::Integer(number)) => u64::try_from(number).ok(),
            _ => None,
        };
        number.ok_or_else(|| self.error(item.span().start, format!("`{name}` must be a whole number")))
    }

    fn seconds(&self, item: &Item<'_>, name: &str) -> Result<u64, ManifestError> {
        let seconds = match item.get_ref() {
            DeValue::String(text) => read_span(text),
            _ => self.count(item, name).ok(),
        };
        seconds.ok_or_else(|| {
            self.wrong(
                item,
                format!("`{name}` must be a length of time"),
                format!("write `{name} = \"7d\"`, \"90m\", \"1h30m\" or \"0s\""),
            )
        })
    }

    fn words<T: Copy + Ord>(
        &self,
        item: &Item<'_>,
        name: &str,
        all: &[T],
        word_of: impl Fn(&T) -> &'static str + Copy,
    ) -> Result<std::collections::BTreeSet<T>, ManifestError> {
        self.strings(item, name)?.iter().map(|word| self.word(item, name, word, all, word_of)).collect()
    }

    fn word<T: Copy>(
        &self,
        item: &Item<'_>,
        name: &str,
        word: &str,
        all: &[T],
        word_of: impl Fn(&T) -> &'static str,
    ) -> Result<T, ManifestError> {
        let found = all.iter().find(|known| word_of(known) == word).copied();
        found.ok_or_else(|| {
            let known: Vec<&str> = all.iter().map(&word_of).collect();
            self.wrong(
                item,
                format!("`{word}` is no word of `{name}`"),
                format!("known: {}", known.join(", ")),
            )
        })
    }

    /// A document, as a table of TOML or as text that is Extended JSON.
    fn document(&self, item: &Item<'_>, name: &str) -> Result<Json, ManifestError> {
        let document = match item.get_ref() {
            DeValue::String(text) => Json::parse(text).ok(),
            other => value_of(other),
        };
        document.filter(|document| document.members().is_some()).ok_or_else(|| {
            self.wrong(
                item,
                format!("`{name}` must be a document"),
                format!("write `{name} = {{ field = 1 }}`, or Extended JSON in quotes"),
            )
        })
    }
}

/// Whether a collection of an application may be called so. A server keeps some names for itself, and takes others for none.
pub fn is_collection_name(name: &str) -> bool {
    let is_own = name.starts_with("system.");
    !is_own && !name.is_empty() && !name.starts_with('.') && !name.contains(['$', '\0'])
}

/// Whether a server takes `path` for the path of a key: no part is empty, holds NUL or begins with `$`, but for those of references (`$id`) and
/// `$**` at the end (seen with 6.0.27).
fn is_field(path: &str) -> bool {
    if path == "$**" {
        return true;
    }
    let path = path.strip_suffix(".$**").unwrap_or(path);
    let is_part =
        |part: &str| !part.is_empty() && (!part.starts_with('$') || ["$id", "$ref", "$db"].contains(&part));
    !path.contains('\0') && path.split('.').all(is_part)
}

/// Whether two declarations cannot both stand: the same index, or the same name.
fn clash(one: &DeclaredIndex, other: &DeclaredIndex) -> bool {
    let same = one.options() == other.options() && one.collation == other.collation;
    same || one.name() == other.name()
}

/// A value of TOML as JSON; `None` for a date, which stands for no value of an index.
fn value_of(value: &DeValue<'_>) -> Option<Json> {
    Some(match value {
        DeValue::String(text) => Json::from(text.as_ref()),
        DeValue::Integer(number) => {
            Json::Integer(i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()?)
        }
        DeValue::Float(number) => Json::Real(number.as_str().replace('_', "").parse().ok()?),
        DeValue::Boolean(flag) => Json::Flag(*flag),
        DeValue::Datetime(_) => return None,
        DeValue::Array(items) => {
            Json::List(items.iter().map(|item| value_of(item.get_ref())).collect::<Option<_>>()?)
        }
        DeValue::Table(fields) => {
            // As written, not as a table sorts them.
            let mut ordered: Vec<_> = fields.iter().collect();
            ordered.sort_by_key(|(name, _)| name.span().start);
            let pair = |(name, item): (&Spanned<_>, &Item<'_>)| {
                Some((String::from(AsRef::<str>::as_ref(name.get_ref())), value_of(item.get_ref())?))
            };
            Json::Object(ordered.into_iter().map(pair).collect::<Option<_>>()?)
        }
    })
}

/// The units of a length of time, in seconds, the longest first.
const UNITS: [(&str, u64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// `1h30m` in seconds.
fn read_span(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut sum: u64 = 0;
    let mut is_empty = true;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, seconds) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = rest[unit.len()..].trim_start();
        sum = sum.checked_add(number.checked_mul(*seconds)?)?;
        is_empty = false;
    }
    (!is_empty).then_some(sum)
}

/// A length of time in its largest whole unit: `7d`, `90m`, `0s`.
pub fn span(seconds: u64) -> String {
    let whole = UNITS.iter().skip(1).find(|(_, unit)| seconds >= *unit && seconds.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{seconds}s"), |(name, unit)| format!("{}{name}", seconds / unit))
}

/// The same, rounded down to what a person wants to know of it: `9h` for nine hours and a second.
pub fn rounded_span(seconds: u64) -> String {
    let units = [86_400, 3_600, 60];
    let unit = units.into_iter().find(|unit| seconds >= 2 * unit).unwrap_or(1);
    span(seconds - seconds % unit)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        for (text, seconds) in
            [("0s", 0), ("7d", 604_800), ("90m", 5_400), ("1h30m", 5_400), ("1w 1d", 691_200)]
        {
            assert_eq!(read_span(text), Some(seconds), "{text}");
            assert_eq!(read_span(&span(seconds)), Some(seconds));
        }
        for bad in ["", "7", "d", "7x", "-1s", "99999999999999999999d", "é"] {
            assert_eq!(read_span(bad), None, "{bad}");
        }
        assert_eq!(span(5_400), "90m");
        assert_eq!(span(604_800), "7d");
    }

    #[test]
    fn the_whole_grammar() {
        let manifest = Manifest::parse(
            r#"
[mongo]
url = "mongodb://h"
[mongo.indexes]
users = [{ keys = ["email"], unique = true, collation = { locale = "en", strength = 2 } }]
things = [
  { keys = ["title:text", "description:text"], weights = { title = 10 }, language = "german", name = "words" },
  { keys = [{ "a:b" = 1 }, "-c"], sparse = true, assert = ["no-explicit-null"], allow = ["unused"], pin = true, was = "old" },
  { keys = ["at"], ttl = "30d" },
  { keys = ["$**"], wildcard = { b = 1 } },
  { keys = ["n"], partial = '{"n": {"$gt": {"$numberLong": "5"}}}', hidden = true, multikey = true },
  { keys = ["n"], name = "n_other", partial = { n = { "$exists" = true, "$gt" = 5.5 } } },
]
[mongo.policy]
undeclared = "drop"
hide_for = "14d"
max_expire = 0
ignore = ["tmp_*"]
"#,
        )
        .unwrap();
        assert_eq!(manifest.policy.undeclared, Undeclared::Drop);
        assert_eq!((manifest.policy.hide_seconds, manifest.policy.expire_max), (1_209_600, 0));
        assert!(manifest.policy.ignores("tmp_x"));
        let things = &manifest.collections["things"];
        let names: Vec<String> = things.iter().map(DeclaredIndex::name).collect();
        assert_eq!(names, ["words", "a:b_1_c_-1", "at_1", "$**_1", "n_1", "n_other"]);
        let definitions: Vec<String> = things
            .iter()
            .map(|index| index.definition(&index.name(), &Collation::Simple).to_string())
            .collect();
        assert_eq!(
            definitions,
            [
                r#"{"key":{"title":"text","description":"text"},"name":"words","weights":{"description":1,"title":10},"default_language":"german"}"#,
                r#"{"key":{"a:b":1,"c":-1},"name":"a:b_1_c_-1","sparse":true}"#,
                r#"{"key":{"at":1},"name":"at_1","expireAfterSeconds":2592000}"#,
                r#"{"key":{"$**":1},"name":"$**_1","wildcardProjection":{"b":1}}"#,
                r#"{"key":{"n":1},"name":"n_1","partialFilterExpression":{"n":{"$gt":{"$numberLong":"5"}}},"hidden":true}"#,
                r#"{"key":{"n":1},"name":"n_other","partialFilterExpression":{"n":{"$exists":true,"$gt":5.5}}}"#,
            ]
        );
    }

    #[test]
    fn a_file_of_its_own_needs_no_prefix() {
        let manifest = Manifest::parse("[indexes]\nc = [{ keys = [\"a\"] }]\n").unwrap();
        assert_eq!(manifest.collections["c"].len(), 1);
        assert_eq!(Manifest::parse("[mongo]\nindexes = \"indexes.toml\"\n").unwrap(), Manifest::default());
    }

    #[test]
    fn what_a_server_takes_for_a_field_is_one() {
        for field in ["a", "a.b", "a b", "é", "$**", "a.$**", "owner.$id", "a.0"] {
            assert!(is_field(field), "{field}");
        }
        for field in ["", ".a", "a.", "a..b", "$a", "a.$b", "$**.a", "a$**.$**.b", "a\0"] {
            assert!(!is_field(field), "{field:?}");
        }
    }

    #[test]
    fn faults_name_the_line_and_what_would_do() {
        for (text, line, message, hint) in [
            ("[indexes]\nc = 1", 2, "the indexes of `c` are a list", "keys"),
            ("[indexes]\nc = [\"a\"]", 2, "a table with `keys`", "keys"),
            ("[indexes]\nc = [{ name = \"a\" }]", 2, "without `keys`", "-descending"),
            ("[indexes]\nc = [{ keys = [] }]", 2, "list of fields", ""),
            ("[indexes]\nc = [{ keys = [\"a:b\"] }]", 2, "no known kind `b`", ""),
            ("[indexes]\nc = [{ keys = [\"a\", \"-a\"] }]", 2, "`a` is named twice", ""),
            (
                "[indexes]\nc = [\n{ keys = [\"a\"] },\n{ keys = [\"a\"] }]",
                4,
                "declares the index a_1 twice",
                "name",
            ),
            ("[indexes]\nc = [{ keys = [\"a\"], uniqe = true }]", 2, "no `uniqe`", "unique"),
            ("[indexes]\nc = [{ keys = [\"a\"], unique = 1 }]", 2, "`unique` must be true or false", ""),
            ("[indexes]\nc = [{ keys = [\"a\"], ttl = \"soon\" }]", 2, "length of time", "7d"),
            ("[indexes]\nc = [{ keys = [\"a\", \"b\"], ttl = \"1d\" }]", 2, "one plain field", ""),
            (
                "[indexes]\nc = [{ keys = [\"a\"], sparse = true, partial = { a = 1 } }]",
                2,
                "both `sparse` and `partial`",
                "$exists",
            ),
            (
                "[indexes]\nc = [{ keys = [\"a\"], assert = [\"no-nulls\"] }]",
                2,
                "no word of `assert`",
                "no-explicit-null",
            ),
            (
                "[indexes]\nc = [{ keys = [\"a\"], collation = { strength = 2 } }]",
                2,
                "needs a locale",
                "locale",
            ),
            ("[indexes]\nc = [{ keys = [\"_id\"] }]", 2, "the server's own", ""),
            ("[indexes]\n\"\" = []", 2, "no name of a collection", "as the server lists it"),
            ("[indexes]\n\"a\\u0000\" = []", 2, "`a\\0` is no name", ""),
            ("[indexes]\n\"system.x\" = []", 2, "`system.x` is no name", ""),
            ("[indexes]\n\"a$b\" = []", 2, "`a$b` is no name", ""),
            ("[indexes]\nc = [{ keys = [\"a..b\"] }]", 2, "`a..b` is no field", "between points"),
            ("[indexes]\nc = [{ keys = [\"$a\"] }]", 2, "`$a` is no field", ""),
            ("[indexes]\nc = [{ keys = [\"a\\u0000\"] }]", 2, "`a\\0` is no field", ""),
            ("[indexes]\nc = [{ keys = [\"a.$**.b\"] }]", 2, "is no field", ""),
            ("[indexes]\nc = [{ keys = [\"a\"], name = \"*\" }]", 2, "`*` is no name", ""),
            ("[indexes]\nc = [{ keys = [\"a\"], name = \"_id_\" }]", 2, "`_id_` is no name", ""),
            ("[policy]\nundeclared = \"keep\"", 2, "no word of `undeclared`", "report, hide, drop"),
            ("[policy]\nhidefor = \"1d\"", 2, "no `hidefor`", "hide_for"),
            ("indexes = [", 1, "not valid TOML", ""),
        ] {
            let error = Manifest::parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.message.contains(message), "{text}: {error}");
            assert!(error.hint.as_deref().unwrap_or_default().contains(hint), "{text}: {error:?}");
        }
    }
}
