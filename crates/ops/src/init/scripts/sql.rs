//! Scripts of psql, scanned statement by statement: roles, databases, extensions, schemas, rights.

use super::shell::variable;
use super::statement::{Password, Statement};
use super::{Read, TOO_LONG};

/// Statements that change nothing that could be declared.
const QUIET: &[&str] = &["SET", "SELECT", "BEGIN", "COMMIT", "SHOW"];
/// The most pieces of one script.
const TOKENS_MAX: usize = 200_000;
/// The most rights that one statement gives; there are fewer words for them.
const RIGHTS_MAX: usize = 32;
/// The most memberships that one statement gives: so many roles times so many.
const MEMBERSHIPS_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A word, in capitals, and as it was written.
    Word(String, String),
    /// A name between double quotes.
    Quoted(String),
    Text(String),
    Sign(char),
}

impl Token {
    /// What it names: a word is folded as the server folds it.
    fn name(&self) -> Option<String> {
        match self {
            Self::Word(_, written) if !written.starts_with('$') && !written.starts_with(':') => {
                Some(written.to_lowercase())
            }
            Self::Quoted(name) => Some(name.clone()).filter(|name| !name.contains('$')),
            _ => None,
        }
    }

    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(own, _) if own == word)
    }
}

/// Reads a script that begins in `database` at `line`.
pub(super) fn scan(text: &str, database: &str, line: usize) -> Read {
    let mut read = Read::default();
    let mut database = database.to_owned();
    let (statements, end) = statements(text, line);
    for (line, tokens) in statements {
        if let [Token::Sign('\\'), rest @ ..] = tokens.as_slice() {
            match rest {
                [command, name, ..] if command.is("C") || command.is("CONNECT") => match name.name() {
                    Some(name) => database = name,
                    None => {
                        read.unread.push((line, "\\connect to a name that is not written out".to_owned()))
                    }
                },
                [Token::Word(_, command), ..] if ["set", "echo", "q"].contains(&command.as_str()) => {}
                [Token::Word(_, command), ..] => read.unread.push((line, format!("\\{command}"))),
                _ => {}
            }
            continue;
        }
        match understood(&tokens, &database) {
            Some(statements) => read.found.extend(statements.into_iter().map(|one| (line, one))),
            None => {
                let words: Vec<&str> = tokens
                    .iter()
                    .map_while(|token| match token {
                        Token::Word(word, _) if word.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
                            Some(word.as_str())
                        }
                        _ => None,
                    })
                    .take(2)
                    .collect();
                if words.first().is_some_and(|first| !QUIET.contains(first)) {
                    read.unread.push((line, words.join(" ")));
                }
            }
        }
    }
    read.unread.extend(end.map(|line| (line, TOO_LONG.to_owned())));
    read
}

/// Statements with the lines in which they begin.
type Statements = Vec<(usize, Vec<Token>)>;

/// The statements, and the line where reading ended when the script goes on. Those of psql itself end with their line.
fn statements(text: &str, first_line: usize) -> (Statements, Option<usize>) {
    let (mut all, mut end) = (Vec::new(), None);
    let mut tokens: Vec<Token> = Vec::new();
    let (mut begun, mut count) = (first_line, 0);
    let mut chars = Chars { rest: text, line: first_line };
    while let Some(one) = chars.next() {
        if tokens.is_empty() {
            begun = chars.line;
        }
        count += 1;
        if count > TOKENS_MAX {
            end = Some(chars.line);
            break;
        }
        let is_meta = matches!(tokens.first(), Some(Token::Sign('\\')));
        match one {
            '\n' if is_meta => all.push((begun, std::mem::take(&mut tokens))),
            _ if one.is_whitespace() => {}
            ';' if !tokens.is_empty() => all.push((begun, std::mem::take(&mut tokens))),
            ';' => {}
            '-' if chars.rest.starts_with('-') => chars.skip_line(),
            '/' if chars.rest.starts_with('*') => {
                chars.until("*/");
            }
            '\'' => tokens.push(Token::Text(chars.quoted('\''))),
            '"' => tokens.push(Token::Quoted(chars.quoted('"'))),
            '$' => match dollar_tag(chars.rest) {
                Some(tag) => {
                    chars.advance(tag.len() - 1);
                    tokens.push(Token::Text(chars.until(&tag)));
                }
                None => tokens.push(chars.word(one)),
            },
            _ if one.is_alphanumeric() || one == '_' || one == ':' => tokens.push(chars.word(one)),
            _ => tokens.push(Token::Sign(one)),
        }
    }
    if !tokens.is_empty() {
        all.push((begun, tokens));
    }
    (all, end)
}

/// `$tag$` at the beginning of `$` and `rest`, whole.
fn dollar_tag(rest: &str) -> Option<String> {
    let (tag, _) = rest.split_once('$')?;
    let is_tag = !tag.starts_with(|first: char| first.is_ascii_digit())
        && tag.chars().all(|one| one.is_alphanumeric() || one == '_');
    is_tag.then(|| format!("${tag}$"))
}

struct Chars<'a> {
    rest: &'a str,
    line: usize,
}

impl Chars<'_> {
    fn next(&mut self) -> Option<char> {
        let one = self.rest.chars().next()?;
        self.advance(one.len_utf8());
        Some(one)
    }

    fn advance(&mut self, bytes: usize) {
        let (passed, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.line += passed.bytes().filter(|byte| *byte == b'\n').count();
        self.rest = rest;
    }

    /// What comes before `end`, which is passed; the rest when there is none.
    fn until(&mut self, end: &str) -> String {
        let length = self.rest.find(end).unwrap_or(self.rest.len());
        let text = self.rest[..length].to_owned();
        self.advance(length);
        self.advance(end.len());
        text
    }

    fn skip_line(&mut self) {
        let length = self.rest.find('\n').unwrap_or(self.rest.len());
        self.advance(length);
    }

    /// What stands between `quote` and the next one that is not doubled.
    fn quoted(&mut self, quote: char) -> String {
        let mut text = String::new();
        while let Some(one) = self.next() {
            if one != quote {
                text.push(one);
            } else if self.rest.starts_with(quote) {
                self.next();
                text.push(quote);
            } else {
                break;
            }
        }
        text
    }

    fn word(&mut self, first: char) -> Token {
        let length = self
            .rest
            .find(|one: char| !one.is_alphanumeric() && !"_${}".contains(one))
            .unwrap_or(self.rest.len());
        let word = format!("{first}{}", &self.rest[..length]);
        self.advance(length);
        Token::Word(word.to_uppercase(), word)
    }
}

fn understood(tokens: &[Token], database: &str) -> Option<Vec<Statement>> {
    match tokens {
        [create, role, rest @ ..] if create.is("CREATE") && (role.is("ROLE") || role.is("USER")) => {
            create_role(rest, role.is("USER"))
        }
        [create, database, name, rest @ ..] if create.is("CREATE") && database.is("DATABASE") => {
            let owner =
                behind(rest, "OWNER").and_then(|rest| rest.iter().find(|token| !is_equals(token))?.name());
            Some(vec![Statement::Database { name: name.name()?, owner }])
        }
        [create, extension, rest @ ..] if create.is("CREATE") && extension.is("EXTENSION") => {
            Some(vec![Statement::Extension {
                database: database.to_owned(),
                name: without_if(rest).first()?.name()?,
            }])
        }
        [create, schema, rest @ ..] if create.is("CREATE") && schema.is("SCHEMA") => {
            let rest = without_if(rest);
            let owner = behind(rest, "AUTHORIZATION").and_then(|rest| rest.first()?.name());
            let name = match rest.first()?.is("AUTHORIZATION") {
                true => owner.clone()?,
                false => rest.first()?.name()?,
            };
            Some(vec![Statement::Schema { database: database.to_owned(), name, owner }])
        }
        [grant, rest @ ..] if grant.is("GRANT") => grant_statement(rest, database, None),
        [alter, default, privileges, rest @ ..]
            if alter.is("ALTER") && default.is("DEFAULT") && privileges.is("PRIVILEGES") =>
        {
            let by = behind(rest, "FOR").and_then(|rest| rest.get(1)?.name())?;
            let schema = behind(rest, "SCHEMA").and_then(|rest| rest.first()?.name())?;
            grant_statement(behind(rest, "GRANT")?, database, Some((by, schema)))
        }
        _ => None,
    }
}

fn is_equals(token: &Token) -> bool {
    *token == Token::Sign('=')
}

/// What comes behind the first `word`.
fn behind<'t>(tokens: &'t [Token], word: &str) -> Option<&'t [Token]> {
    let at = tokens.iter().position(|token| token.is(word))?;
    tokens.get(at + 1..)
}

fn without_if(tokens: &[Token]) -> &[Token] {
    match tokens {
        [if_, not, exists, rest @ ..] if if_.is("IF") && not.is("NOT") && exists.is("EXISTS") => rest,
        tokens => tokens,
    }
}

fn create_role(tokens: &[Token], logs_in: bool) -> Option<Vec<Statement>> {
    let name = tokens.first()?.name()?;
    let mut attributes: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: String| {
        attributes.retain(|(known, _)| known != name);
        attributes.push((name.to_owned(), value));
    };
    if logs_in {
        set("login", "true".to_owned());
    }
    let (mut password, mut member_of) = (None, Vec::new());
    let mut rest = tokens[1..].iter().peekable();
    while let Some(token) = rest.next() {
        let Token::Word(word, _) = token else { continue };
        match word.as_str() {
            "PASSWORD" => {
                password = Some(match rest.next()? {
                    Token::Text(text) => variable(text).map_or(Password::Literal, Password::Variable),
                    Token::Word(_, written) if written.starts_with(':') => Password::Elsewhere,
                    Token::Sign(':') => Password::Elsewhere,
                    _ => return None,
                });
            }
            "CONNECTION" => {
                rest.next();
                if let Some(Token::Word(limit, _)) = rest.next()
                    && let Ok(limit) = limit.parse::<u32>()
                {
                    set("connection_limit", limit.to_string());
                }
            }
            "IN" => {
                rest.next();
                while let Some(member) = rest.next() {
                    member_of.push(member.name()?);
                    match rest.peek() {
                        Some(Token::Sign(',')) => drop(rest.next()),
                        _ => break,
                    }
                }
            }
            _ => {
                let (name, on) = match word.strip_prefix("NO") {
                    Some(name) if name != "T" => (name, false),
                    _ => (word.as_str(), true),
                };
                let known = ["LOGIN", "CREATEDB", "CREATEROLE", "REPLICATION", "INHERIT", "BYPASSRLS"];
                if known.contains(&name) {
                    set(&name.to_lowercase(), on.to_string());
                }
            }
        }
    }
    Some(vec![Statement::Role { name, attributes, member_of, password }])
}

/// `SELECT, INSERT ON … TO a, b`, or `role TO a`; `future` says by whom and where, for default rights.
fn grant_statement(
    tokens: &[Token],
    database: &str,
    future: Option<(String, String)>,
) -> Option<Vec<Statement>> {
    let to: Vec<String> = names(behind(tokens, "TO")?)?;
    let before_to = &tokens[..tokens.iter().position(|token| token.is("TO"))?];
    let Some(on) = behind(before_to, "ON") else {
        let member_of = names(before_to)?;
        if to.len() * member_of.len() > MEMBERSHIPS_MAX {
            return None;
        }
        return Some(
            to.into_iter().map(|name| Statement::Membership { name, member_of: member_of.clone() }).collect(),
        );
    };
    let rights = &before_to[..before_to.iter().position(|token| token.is("ON"))?];
    let privileges: Vec<String> = rights
        .iter()
        .filter_map(|token| match token {
            Token::Word(word, _) => Some(word.clone()),
            _ => None,
        })
        .collect();
    // ALL is for whoever declares to write out.
    if privileges.len() > RIGHTS_MAX
        || privileges.iter().any(|word| word == "ALL")
        || rights.contains(&Token::Sign('('))
    {
        return None;
    }
    let (mut own, mut by) = (database.to_owned(), None);
    let on = match (on, future) {
        ([what], Some((maker, schema))) if what.is("TABLES") || what.is("SEQUENCES") => {
            by = Some(maker);
            format!("future {} in {schema}", what.name()?)
        }
        (_, Some(_)) => return None,
        ([what, name], None) if what.is("DATABASE") => {
            own = name.name()?;
            "database".to_owned()
        }
        ([what, name], None) if what.is("SCHEMA") => format!("schema {}", name.name()?),
        ([all, what, in_, schema, name], None) if all.is("ALL") && in_.is("IN") && schema.is("SCHEMA") => {
            let what = what.name().filter(|what| ["tables", "sequences"].contains(&what.as_str()))?;
            format!("{what} in {}", name.name()?)
        }
        (table, None) => {
            let table = if table.first()?.is("TABLE") { &table[1..] } else { table };
            match table {
                [schema, Token::Sign('.'), name] => format!("table {}.{}", schema.name()?, name.name()?),
                [name] => format!("table public.{}", name.name()?),
                _ => return None,
            }
        }
    };
    let one = |role: String| Statement::Grant {
        database: own.clone(),
        role,
        on: on.clone(),
        by: by.clone(),
        privileges: privileges.clone(),
    };
    Some(to.into_iter().map(one).collect())
}

/// Names parted by commas, up to what is none.
fn names(tokens: &[Token]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for pair in tokens.chunks(2) {
        names.push(pair.first()?.name()?);
        if pair.get(1) != Some(&Token::Sign(',')) {
            break;
        }
    }
    (!names.is_empty()).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::super::Found;
    use super::super::statement::{Image, declaration};
    use super::*;

    const SCRIPT: &str = r#"
-- CREATE ROLE nobody;
/* CREATE ROLE nobody; */
CREATE ROLE readers NOLOGIN;
CREATE USER app WITH PASSWORD 'can''ary;' CREATEDB CONNECTION LIMIT 5 IN ROLE readers;
CREATE ROLE "Odd Name" LOGIN PASSWORD :'secret';
CREATE DATABASE shop OWNER app;
\c shop
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE SCHEMA IF NOT EXISTS audit AUTHORIZATION app;
GRANT CONNECT ON DATABASE shop TO readers;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO readers, app;
GRANT SELECT ON audit.log TO readers;
GRANT readers TO app;
ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA public GRANT SELECT ON TABLES TO readers;
DO $$ BEGIN EXECUTE 'CREATE ROLE canary'; END $$;
GRANT ALL ON DATABASE shop TO app;
SELECT 'canary';
CREATE TABLE canary (id int);
"#;

    #[test]
    fn statements_are_read_with_their_database_and_place() {
        let read = scan(SCRIPT, "postgres", 1);
        let found: Vec<String> = read.found.iter().map(|(line, one)| format!("{line}: {one}")).collect();
        assert_eq!(
            found,
            [
                "4: role readers",
                "5: role app, member of readers; its password stands in the script",
                "6: role Odd Name",
                "7: database shop, owned by app",
                "9: extension pg_trgm in shop",
                "10: schema audit in shop",
                "11: CONNECT on database in shop to readers",
                "12: SELECT, INSERT on tables in public in shop to readers",
                "12: SELECT, INSERT on tables in public in shop to app",
                "13: SELECT on table audit.log in shop to readers",
                "14: app becomes a member of readers",
                "15: SELECT on future tables in public in shop to readers",
            ]
        );
        let unread: Vec<String> = read.unread.iter().map(|(line, what)| format!("{line}: {what}")).collect();
        assert_eq!(unread, ["16: DO", "17: GRANT ALL", "19: CREATE TABLE"]);
        assert!(!format!("{read:?}").contains("can'ary"), "{read:?}");
    }

    #[test]
    fn the_declaration_says_the_same() {
        let read = scan(SCRIPT, "postgres", 1);
        let found: Vec<Found> = read
            .found
            .into_iter()
            .map(|(line, statement)| Found { file: "a.sql".to_owned(), line, statement })
            .collect();
        let toml = declaration(Image::Postgres, &found);
        for part in [
            "[init.postgres.roles.app]\nlogin = true\ncreatedb = true\nconnection_limit = 5\nmember_of = [\"readers\"]\npassword_variable = \"APP_PASSWORD\"\n",
            "[init.postgres.roles.\"Odd Name\"]\nlogin = true\npassword_variable = \"ODD_NAME_PASSWORD\"\n",
            "[init.postgres.databases.shop]\nowner = \"app\"\nextensions = [\"pg_trgm\"]\n",
            "[init.postgres.databases.shop.schemas.audit]\nowner = \"app\"\n",
            "[[init.postgres.privileges]]\nrole = \"readers\"\ndatabase = \"shop\"\non = \"future tables in public\"\nby = \"app\"\ngrant = [\"SELECT\"]\n",
        ] {
            assert!(toml.contains(part), "{part}\nis not in\n{toml}");
        }
    }
}
