//! Patterns over namespaces, with the meaning that mongorestore gives them.
//!
//! A pattern matches a whole name. `*` stands for any run of characters, also none; `\` takes the next character for itself. In a renaming the
//! asterisks of both sides belong together by position; or each side has variables, `$name$`, and asterisks there are plain characters. Where
//! a run could be long or short it is short. Of several renamings that match, the last one given counts.

use mainstay_model::{Error, ErrorKind, Result};

/// Which names are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    text: String,
    parts: Vec<Part>,
}

/// How names are changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Renaming {
    from: Pattern,
    to: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Plain(String),
    /// A run that has this name; asterisks are called by their numbers.
    Run(String),
}

impl Pattern {
    /// A pattern of names to take or leave.
    ///
    /// # Errors
    /// `Usage` for variables, and for a `\` at the end.
    pub(super) fn of(text: &str) -> Result<Self> {
        if text.contains('$') {
            return Err(malformed(text, "`$` is for renaming only"));
        }
        Ok(Self { text: text.to_owned(), parts: wildcards(text)? })
    }

    /// Whether `name` is meant.
    pub(super) fn matches(&self, name: &str) -> bool {
        self.runs(name).is_some()
    }

    /// What was typed.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What each run of the pattern stands for in `name`, in order; `None` when it does not match.
    fn runs<'a>(&self, name: &'a str) -> Option<Vec<(&str, &'a str)>> {
        let mut runs = Vec::new();
        let mut rest = name;
        let mut parts = self.parts.iter().peekable();
        while let Some(part) = parts.next() {
            let run = match part {
                Part::Plain(plain) => {
                    rest = rest.strip_prefix(plain.as_str())?;
                    continue;
                }
                Part::Run(run) => run.as_str(),
            };
            // The shortest run that lets the next plain part follow; whether what comes after it fits does not depend on a longer one, but
            // for the last plain part, which has to end the name.
            let (value, left) = match parts.peek() {
                None => (rest, ""),
                Some(Part::Run(_)) => ("", rest),
                Some(Part::Plain(plain)) => {
                    parts.next();
                    let at = if parts.peek().is_none() {
                        rest.len().checked_sub(plain.len()).filter(|_| rest.ends_with(plain.as_str()))?
                    } else {
                        rest.find(plain.as_str())?
                    };
                    (&rest[..at], &rest[at + plain.len()..])
                }
            };
            runs.push((run, value));
            rest = left;
        }
        rest.is_empty().then_some(runs)
    }
}

impl Renaming {
    /// Names that match `from` become `to`.
    ///
    /// # Errors
    /// `Usage` when the two sides do not fit together.
    pub(super) fn of(from: &str, to: &str) -> Result<Self> {
        let with_variables = from.contains('$') || to.contains('$');
        let parse = if with_variables { variables } else { wildcards };
        let (from, to) = (Pattern { text: from.to_owned(), parts: parse(from)? }, parse(to)?);
        let mut known: Vec<&str> = runs_of(&from.parts).collect();
        let count = known.len();
        known.sort_unstable();
        known.dedup();
        if known.len() != count {
            return Err(malformed(&from.text, "a variable stands in it twice"));
        }
        if !with_variables && runs_of(&to).count() != count {
            return Err(malformed(&from.text, "the name it becomes has another number of asterisks"));
        }
        if let Some(unknown) = runs_of(&to).find(|run| !known.contains(run)) {
            return Err(malformed(
                &from.text,
                &format!("the name it becomes has the variable `{unknown}`, which is not in it"),
            ));
        }
        Ok(Self { from, to })
    }

    /// What `name` becomes; `None` when it is not meant.
    pub(super) fn renamed(&self, name: &str) -> Option<String> {
        let runs = self.from.runs(name)?;
        let value = |wanted: &str| runs.iter().find(|(run, _)| *run == wanted).map_or("", |(_, value)| value);
        Some(
            self.to
                .iter()
                .map(|part| match part {
                    Part::Plain(plain) => plain.as_str(),
                    Part::Run(run) => value(run),
                })
                .collect(),
        )
    }

    /// What was typed for the old name.
    pub(super) fn text(&self) -> &str {
        &self.from.text
    }
}

fn runs_of(parts: &[Part]) -> impl Iterator<Item = &str> {
    parts.iter().filter_map(|part| match part {
        Part::Run(run) => Some(run.as_str()),
        Part::Plain(_) => None,
    })
}

fn wildcards(text: &str) -> Result<Vec<Part>> {
    let mut parts = Parts::default();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '*' => parts.run(parts.runs.to_string()),
            '\\' => parts.plain(characters.next().ok_or_else(|| malformed(text, "it ends in `\\`"))?),
            other => parts.plain(other),
        }
    }
    Ok(parts.finish())
}

fn variables(text: &str) -> Result<Vec<Part>> {
    let mut parts = Parts::default();
    for (position, piece) in text.split('$').enumerate() {
        // Every second piece lies between two signs.
        if position % 2 == 1 {
            parts.run(piece.to_owned());
        } else {
            piece.chars().for_each(|character| parts.plain(character));
        }
    }
    if text.matches('$').count() % 2 == 1 {
        return Err(malformed(text, "it has an odd number of `$`"));
    }
    Ok(parts.finish())
}

#[derive(Default)]
struct Parts {
    done: Vec<Part>,
    plain: String,
    runs: usize,
}

impl Parts {
    fn plain(&mut self, character: char) {
        self.plain.push(character);
    }

    fn run(&mut self, name: String) {
        self.flush();
        self.done.push(Part::Run(name));
        self.runs += 1;
    }

    fn flush(&mut self) {
        if !self.plain.is_empty() {
            self.done.push(Part::Plain(std::mem::take(&mut self.plain)));
        }
    }

    fn finish(mut self) -> Vec<Part> {
        self.flush();
        self.done
    }
}

fn malformed(text: &str, why: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("`{text}` cannot be a pattern: {why}"))
        .with_state("nothing was changed")
        .with_hint("`*` stands for any run of characters, `\\*` for an asterisk")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_whole() {
        for (pattern, name, expected) in [
            ("shop.users", "shop.users", true),
            ("shop.users", "shop.users2", false),
            ("shop.*", "shop.a.b", true),
            ("shop.*", "shop.", true),
            ("shop.*", "shop", false),
            ("*", "", true),
            ("*.users", "shop.old.users", true),
            ("*a*b*", "xxaxxb", true),
            ("*a*b", "abab", true),
            ("*a*b", "aba", false),
            ("**", "x", true),
            (r"a\*b", "a*b", true),
            (r"a\*b", "axb", false),
            (r"a\\*", r"a\x", true),
            ("[a-z].c", "[a-z].c", true),
            ("a.*.日*", "a.b.日本", true),
        ] {
            assert_eq!(Pattern::of(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
        for bad in ["a$b$", r"a\"] {
            assert_eq!(Pattern::of(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }

    #[test]
    fn names_are_changed_by_position_or_by_variable() {
        for (from, to, name, expected) in [
            ("shop.users", "copy.people", "shop.users", Some("copy.people")),
            ("shop.*", "copy.*", "shop.a.b", Some("copy.a.b")),
            ("*.a*", "x*.b*", "shop.abc", Some("xshop.bbc")),
            ("shop.*", "copy.*", "other.a", None),
            ("prod.$customer$_$kind$", "$customer$.$kind$", "prod.acme_orders_old", Some("acme.orders_old")),
            ("$db$.$c$", "$c$.$db$", "a.b.c", Some("b.c.a")),
            ("a.$x$", "b.*", "a.1", Some("b.*")),
            (r"a\*.*", "b.*", "a*.c", Some("b.c")),
        ] {
            let renaming = Renaming::of(from, to).unwrap();
            assert_eq!(renaming.renamed(name).as_deref(), expected, "{from} {to} {name}");
        }
        for (from, to) in [
            ("a.*", "b.c"),
            ("a.b", "b.*"),
            ("$a", "$a$"),
            ("$a$.$a$", "$a$"),
            ("$a$.b", "$b$.b"),
            ("a", "$x$"),
        ] {
            assert_eq!(Renaming::of(from, to).unwrap_err().kind(), ErrorKind::Usage, "{from} {to}");
        }
    }
}
