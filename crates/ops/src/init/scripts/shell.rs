//! Scripts of the operating system's shell: what they hand to a database's shell as a here-document, or in one argument, is read as its own kind.

use super::statement::Image;
use super::{Read, script, sql};

/// Programs that statements are handed to.
const MONGO: &[&str] = &["mongosh", "mongo"];
const POSTGRES: &[&str] = &["psql"];
/// Commands that change nothing of a database.
const QUIET: &[&str] = &[
    "set", "echo", "export", "if", "then", "fi", "else", "exit", "local", "true", "sleep", "printf", "until",
    "while", "do", "done", "for", "function", "return", "source", "cd", "test",
];

/// Reads a script whose statements begin in `database`.
pub(super) fn scan(image: Image, text: &str, database: &str) -> Read {
    let mut read = Read::default();
    let lines: Vec<&str> = text.lines().collect();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let (number, command) = (at + 1, line.trim());
        at += 1;
        if command.is_empty() || command.starts_with('#') {
            continue;
        }
        let mut whole = command.to_owned();
        while whole.ends_with('\\') && at < lines.len() {
            whole.pop();
            whole.push_str(lines[at].trim());
            at += 1;
        }
        let program = program(&whole);
        let Some(end) = here_document(&whole) else {
            read.unread.extend(unread(&whole, program).map(|what| (number, what)));
            continue;
        };
        let first = at;
        while lines.get(at).is_some_and(|line| line.trim() != end) {
            at += 1;
        }
        let body = lines[first..at].join("\n");
        at += 1;
        let database = named_database(&whole).unwrap_or_else(|| database.to_owned());
        let inner = match (program, image) {
            (Some(program), _) if MONGO.contains(&program) => script::scan(&body, &database, first + 1),
            (Some(_), _) => sql::scan(&body, &database, first + 1),
            (None, _) => Read {
                unread: vec![(number, "a here-document for another program".to_owned())],
                ..Read::default()
            },
        };
        read.found.extend(inner.found);
        read.unread.extend(inner.unread);
    }
    read
}

/// A text that is a variable of the shell and nothing else.
pub(super) fn variable(text: &str) -> Option<String> {
    let name = text.strip_prefix('$')?;
    let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then(|| name.to_owned())
}

/// The database's shell that a command starts.
fn program(command: &str) -> Option<&str> {
    let mut words = command.split(|one: char| one.is_whitespace() || "|;&(\"".contains(one));
    words
        .find(|word| {
            let name = word.rsplit('/').next().unwrap_or(word);
            MONGO.contains(&name) || POSTGRES.contains(&name)
        })
        .map(|word| word.rsplit('/').next().unwrap_or(word))
}

/// The word that ends a here-document of a command, if it has one.
fn here_document(command: &str) -> Option<String> {
    let (_, rest) = command.split_once("<<")?;
    let rest = rest.strip_prefix('-').unwrap_or(rest).trim_start();
    if rest.starts_with('<') {
        return None;
    }
    let word: String = rest
        .trim_start_matches(['\'', '"', '\\'])
        .chars()
        .take_while(|one| one.is_ascii_alphanumeric() || *one == '_')
        .collect();
    (!word.is_empty()).then_some(word)
}

/// The database that a command of psql names, when it is written out.
fn named_database(command: &str) -> Option<String> {
    let mut words = command.split_whitespace();
    while let Some(word) = words.next() {
        let value = match word {
            "-d" | "--dbname" => words.next(),
            _ => word.strip_prefix("--dbname="),
        };
        if let Some(value) = value {
            let value = value.trim_matches(['"', '\'']);
            return (!value.contains('$') && !value.is_empty()).then(|| value.to_owned());
        }
    }
    None
}

/// What is said of a command that is not read: its first word alone, for the others may hold anything.
fn unread(command: &str, program: Option<&str>) -> Option<String> {
    if let Some(program) = program {
        return Some(format!("{program} with statements in its arguments"));
    }
    let first = command.split(|one: char| !one.is_ascii_alphanumeric() && !"_-./".contains(one)).next()?;
    let is_assignment = command[first.len()..].starts_with('=');
    let is_plain = first.is_empty() || QUIET.contains(&first) || is_assignment;
    (!is_plain && first.len() <= 40).then(|| first.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn here_documents_are_read_as_what_they_are_for() {
        let text = "#!/bin/bash\nset -e\nPW=canary\npsql -v ON_ERROR_STOP=1 --username \"$POSTGRES_USER\" \\\n  --dbname shop <<-'EOSQL'\n\
            CREATE USER app WITH PASSWORD '$APP_PWD';\nEOSQL\nmongosh <<EOF\ndb.createUser({user: 'm', pwd: '$M_PWD', roles: []})\nEOF\n\
            mongosh --eval 'db.createUser({pwd: \"canary\"})'\ncurl canary\n";
        let read = scan(Image::Postgres, text, "postgres");
        let found: Vec<String> = read.found.iter().map(|(line, one)| format!("{line}: {one}")).collect();
        assert_eq!(
            found,
            [
                "6: role app; its password is in APP_PWD",
                "9: user postgres.m with none; its password is in M_PWD"
            ]
        );
        let unread: Vec<String> = read.unread.iter().map(|(line, what)| format!("{line}: {what}")).collect();
        assert_eq!(unread, ["11: mongosh with statements in its arguments", "12: curl"]);
    }

    #[test]
    fn variables_are_told_from_texts() {
        assert_eq!(variable("$APP_PWD").as_deref(), Some("APP_PWD"));
        assert_eq!(variable("${APP}").as_deref(), Some("APP"));
        for text in ["APP", "$", "$1a", "${A}b", "$A$B", "$é"] {
            assert_eq!(variable(text), None, "{text}");
        }
    }
}
