//! Scripts of MongoDB's shell, scanned: chains of calls that begin at `db`, a name given to a database, or `rs`.
//!
//! No engine: a value is read when it is written out (texts, numbers, lists, objects, `process.env.NAME`), everything else is opaque. What stands
//! inside a function, a loop or a condition is read as if it ran once, and told.

use super::statement::{Password, Statement};
use super::{Read, TOO_LONG};

/// How deep values are read.
const DEPTH_MAX: usize = 32;
/// The most pieces of one script.
const TOKENS_MAX: usize = 200_000;
/// Words behind which statements may run many times, or never.
const CONTROL: &[&str] = &["function", "for", "while", "if", "forEach", "try"];
/// Calls that only look, or only say something.
const HARMLESS: &[&str] = &["print", "printjson", "auth", "getSiblingDB", "getCollection", "log"];

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    /// With a mark whether something is put into it.
    Text(String, bool),
    Number(String),
    Sign(char),
}

struct Piece {
    token: Token,
    line: usize,
}

/// A value as it is written.
#[derive(Debug, Clone, PartialEq)]
enum Written {
    Text(String),
    Number(String),
    Word(&'static str),
    List(Vec<Written>),
    Object(Vec<(String, Written)>),
    Variable(String),
    Opaque,
}

impl Written {
    fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As JSON, when all of it is understood.
    fn json(&self) -> Option<String> {
        Some(match self {
            Self::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
            Self::Number(number) => {
                number.parse::<f64>().ok()?;
                serde_json::from_str::<serde_json::Number>(number).ok()?.to_string()
            }
            Self::Word(word) => (*word).to_owned(),
            Self::List(items) => {
                format!("[{}]", items.iter().map(Self::json).collect::<Option<Vec<_>>>()?.join(","))
            }
            Self::Object(members) => {
                let one = |(name, value): &(String, Self)| {
                    Some(format!("{}:{}", serde_json::Value::from(name.as_str()), value.json()?))
                };
                format!("{{{}}}", members.iter().map(one).collect::<Option<Vec<_>>>()?.join(","))
            }
            Self::Variable(_) | Self::Opaque => return None,
        })
    }
}

/// A step of a chain: `.name`, or `(…)`.
enum Link {
    Member(String),
    Call(Vec<Written>),
}

/// Reads a script that begins in `database` at `line`.
pub(super) fn scan(text: &str, database: &str, line: usize) -> Read {
    let (pieces, end) = pieces(text, line);
    let mut scanner = Scanner {
        pieces: &pieces,
        at: 0,
        names: vec![("db".to_owned(), database.to_owned())],
        read: Read::default(),
    };
    scanner.run();
    scanner.read.unread.extend(end.map(|line| (line, TOO_LONG.to_owned())));
    scanner.read
}

/// The pieces of a script, and the line where reading ended when the script goes on.
fn pieces(text: &str, first_line: usize) -> (Vec<Piece>, Option<usize>) {
    let mut chars = text.chars().peekable();
    let (mut pieces, mut line, mut end) = (Vec::new(), first_line, None);
    while let Some(one) = chars.next() {
        if pieces.len() >= TOKENS_MAX {
            end = Some(line);
            break;
        }
        let start = line;
        match one {
            '\n' => line += 1,
            _ if one.is_whitespace() => {}
            '/' if chars.peek() == Some(&'/') => {
                while chars.peek().is_some_and(|next| *next != '\n') {
                    chars.next();
                }
            }
            '/' if chars.peek() == Some(&'*') => {
                let mut last = ' ';
                chars.next();
                for next in chars.by_ref() {
                    line += usize::from(next == '\n');
                    if last == '*' && next == '/' {
                        break;
                    }
                    last = next;
                }
            }
            '\'' | '"' | '`' => {
                let (mut content, mut is_filled) = (String::new(), false);
                while let Some(next) = chars.next() {
                    line += usize::from(next == '\n');
                    match next {
                        '\\' => match chars.next() {
                            Some('n') => content.push('\n'),
                            Some('t') => content.push('\t'),
                            Some(escaped) => {
                                line += usize::from(escaped == '\n');
                                content.push(escaped);
                            }
                            None => break,
                        },
                        _ if next == one => break,
                        // A text without an end would take the rest of the script for its own.
                        '\n' if one != '`' => break,
                        _ => {
                            is_filled |= one == '`' && next == '$' && chars.peek() == Some(&'{');
                            content.push(next);
                        }
                    }
                }
                pieces.push(Piece { token: Token::Text(content, is_filled), line: start });
            }
            _ if one.is_alphabetic() || one == '_' || one == '$' => {
                let mut word = String::from(one);
                while let Some(next) =
                    chars.peek().filter(|next| next.is_alphanumeric() || "_$".contains(**next))
                {
                    word.push(*next);
                    chars.next();
                }
                pieces.push(Piece { token: Token::Word(word), line: start });
            }
            _ if one.is_ascii_digit() => {
                let mut number = String::from(one);
                while let Some(next) =
                    chars.peek().filter(|next| next.is_ascii_alphanumeric() || **next == '.')
                {
                    number.push(*next);
                    chars.next();
                }
                pieces.push(Piece { token: Token::Number(number), line: start });
            }
            _ => pieces.push(Piece { token: Token::Sign(one), line: start }),
        }
    }
    (pieces, end)
}

struct Scanner<'a> {
    pieces: &'a [Piece],
    at: usize,
    /// Names of databases in the script, and which those are; the last one counts.
    names: Vec<(String, String)>,
    read: Read,
}

impl Scanner<'_> {
    fn run(&mut self) {
        let mut told_control = false;
        while let Some(piece) = self.pieces.get(self.at) {
            let line = piece.line;
            let Token::Word(word) = &piece.token else {
                self.at += 1;
                continue;
            };
            let is_member = self.at > 0 && self.pieces[self.at - 1].token == Token::Sign('.');
            if CONTROL.contains(&word.as_str()) && !told_control {
                told_control = true;
                let what = format!("`{word}`: what stands behind it may run many times, or never");
                self.read.unread.push((line, what));
            }
            match word.as_str() {
                "load" | "eval" if !is_member && self.sign(1, '(') => {
                    self.read.unread.push((line, format!("{word}(): what it brings in is not read")));
                    self.at += 1;
                }
                "use" if !is_member && self.sign(1, '(') => {
                    self.at += 1;
                    if let Some(name) = self.arguments(0).first().and_then(Written::text) {
                        self.names.push(("db".to_owned(), name.to_owned()));
                    }
                }
                "use" if !is_member => {
                    // `use shop`, as it is typed into the shell.
                    if let Some(Piece { token: Token::Word(name), line: next }) = self.pieces.get(self.at + 1)
                        && *next == line
                    {
                        self.names.push(("db".to_owned(), name.clone()));
                    }
                    self.at += 2;
                }
                "rs" if !is_member && self.sign(1, '.') => self.chain(line, "rs"),
                name if !is_member && self.names.iter().any(|(known, _)| known == name) => {
                    let name = name.to_owned();
                    self.chain(line, &name);
                }
                _ => self.at += 1,
            }
        }
    }

    fn sign(&self, ahead: usize, sign: char) -> bool {
        self.pieces.get(self.at + ahead).is_some_and(|piece| piece.token == Token::Sign(sign))
    }

    /// A name that a chain at `at` is given to: `name = …`.
    fn given_name(&self) -> Option<String> {
        let equals = self.at.checked_sub(1)?;
        let is_given = self.pieces[equals].token == Token::Sign('=');
        match &self.pieces.get(equals.checked_sub(1)?)?.token {
            Token::Word(name) if is_given => Some(name.clone()),
            _ => None,
        }
    }

    /// Reads a chain that begins here at the word `base`.
    fn chain(&mut self, line: usize, base: &str) {
        let given = self.given_name();
        self.at += 1;
        let mut links = Vec::new();
        loop {
            let (pieces, at) = (self.pieces, self.at);
            let token = |ahead: usize| pieces.get(at + ahead).map(|piece| &piece.token);
            match (token(0), token(1), token(2)) {
                (Some(Token::Sign('.')), Some(Token::Word(name)), _) => {
                    links.push(Link::Member(name.clone()));
                    self.at += 2;
                }
                (Some(Token::Sign('[')), Some(Token::Text(name, false)), Some(Token::Sign(']'))) => {
                    links.push(Link::Member(name.clone()));
                    self.at += 3;
                }
                (Some(Token::Sign('(')), _, _) => links.push(Link::Call(self.arguments(0))),
                _ => break,
            }
        }
        if base == "rs" {
            return self.replica_set(line, &links);
        }
        let database =
            self.names.iter().rev().find(|(name, _)| name == base).map(|(_, database)| database.clone());
        self.interpret(line, database.unwrap_or_default(), links, given);
    }

    fn interpret(&mut self, line: usize, mut database: String, links: Vec<Link>, given: Option<String>) {
        let mut links = links.into_iter().peekable();
        let mut path: Vec<String> = Vec::new();
        let mut switched = false;
        while let Some(link) = links.next() {
            let Link::Member(name) = link else { continue };
            let Some(Link::Call(_)) = links.peek() else {
                path.push(name);
                continue;
            };
            let Some(Link::Call(arguments)) = links.next() else { continue };
            let first = arguments.first().cloned().unwrap_or(Written::Opaque);
            match (name.as_str(), first.text()) {
                ("getSiblingDB", Some(sibling)) => {
                    database = sibling.to_owned();
                    switched = true;
                }
                ("getSiblingDB" | "getCollection", None) => {
                    self.read.unread.push((line, format!("{name}() of a name that is not written out")));
                    return;
                }
                ("getCollection", Some(collection)) => path.push(collection.to_owned()),
                _ => {
                    self.call(line, &database, &path, &name, &arguments);
                    return;
                }
            }
        }
        if let (true, Some(name), true) = (switched, given, path.is_empty()) {
            self.names.push((name, database));
        }
    }

    fn call(&mut self, line: usize, database: &str, path: &[String], method: &str, arguments: &[Written]) {
        let first = arguments.first().unwrap_or(&Written::Opaque);
        let database = database.to_owned();
        let statement = match (path, method) {
            ([], "createUser") => user(database, first),
            ([], "createCollection") => collection(database, first, arguments.get(1)),
            ([], _) if HARMLESS.contains(&method) => return,
            ([_, ..], "createIndex" | "ensureIndex") => {
                index(database, path.join("."), first, arguments.get(1)).map(|one| vec![one])
            }
            ([_, ..], "createIndexes") => match first {
                Written::List(keys) => keys
                    .iter()
                    .map(|keys| index(database.clone(), path.join("."), keys, arguments.get(1)))
                    .collect(),
                _ => None,
            },
            _ => None,
        };
        match statement {
            Some(statements) => self.read.found.extend(statements.into_iter().map(|one| (line, one))),
            None => {
                let path: String = path.iter().map(|part| format!("{part}.")).collect();
                let options = match method {
                    "createIndex" | "ensureIndex" | "createIndexes" => option_names(arguments.get(1)),
                    _ => String::new(),
                };
                self.read.unread.push((line, format!("db.{path}{method}(){options}")));
            }
        }
    }

    fn replica_set(&mut self, line: usize, links: &[Link]) {
        let [Link::Member(method), Link::Call(arguments), ..] = links else { return };
        if method != "initiate" {
            if !["status", "conf", "config"].contains(&method.as_str()) {
                self.read.unread.push((line, format!("rs.{method}()")));
            }
            return;
        }
        let first = arguments.first();
        let members = match first.and_then(|config| config.get("members")) {
            Some(Written::List(members)) => {
                members.iter().filter_map(|member| member.get("host")?.text().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        };
        let set = first.and_then(|config| config.get("_id")).and_then(Written::text).map(str::to_owned);
        self.read.found.push((line, Statement::Initiate { set, members }));
    }

    /// The values between parentheses that open here. Ends behind the closing one, or at the end.
    fn arguments(&mut self, depth: usize) -> Vec<Written> {
        self.at += 1;
        self.values(')', depth)
    }

    fn values(&mut self, end: char, depth: usize) -> Vec<Written> {
        let mut values = Vec::new();
        while let Some(piece) = self.pieces.get(self.at) {
            match &piece.token {
                Token::Sign(sign) if *sign == end => {
                    self.at += 1;
                    break;
                }
                Token::Sign(',') => self.at += 1,
                _ => values.push(self.value(depth + 1)),
            }
        }
        values
    }

    /// One value, up to what parts it from the next.
    fn value(&mut self, depth: usize) -> Written {
        let before = self.at;
        let written = match self.pieces.get(self.at).map(|piece| piece.token.clone()) {
            Some(Token::Text(text, false)) => {
                self.at += 1;
                Written::Text(text)
            }
            Some(Token::Number(number)) => {
                self.at += 1;
                Written::Number(number)
            }
            Some(Token::Sign('-')) => {
                self.at += 1;
                match self.pieces.get(self.at).map(|piece| piece.token.clone()) {
                    Some(Token::Number(number)) => {
                        self.at += 1;
                        Written::Number(format!("-{number}"))
                    }
                    _ => Written::Opaque,
                }
            }
            Some(Token::Sign('[')) if depth < DEPTH_MAX => {
                self.at += 1;
                Written::List(self.values(']', depth))
            }
            Some(Token::Sign('{')) if depth < DEPTH_MAX => {
                self.at += 1;
                self.object(depth)
            }
            Some(Token::Word(word)) => self.word(&word),
            _ => Written::Opaque,
        };
        // A value ends where the next begins; one that goes on (a sum, a call) is opaque.
        match self.pieces.get(self.at).map(|piece| &piece.token) {
            None | Some(Token::Sign(',' | ')' | ']' | '}')) if self.at > before => written,
            _ => {
                self.skip();
                if self.at == before {
                    self.at += 1;
                }
                Written::Opaque
            }
        }
    }

    fn word(&mut self, word: &str) -> Written {
        self.at += 1;
        match word {
            "true" => Written::Word("true"),
            "false" => Written::Word("false"),
            "null" => Written::Word("null"),
            "process" => {
                let links: Vec<Token> =
                    self.pieces[self.at..].iter().take(5).map(|piece| piece.token.clone()).collect();
                match links.as_slice() {
                    [Token::Sign('.'), Token::Word(env), Token::Sign('.'), Token::Word(name), ..]
                        if env == "env" =>
                    {
                        self.at += 4;
                        Written::Variable(name.clone())
                    }
                    [
                        Token::Sign('.'),
                        Token::Word(env),
                        Token::Sign('['),
                        Token::Text(name, false),
                        Token::Sign(']'),
                    ] if env == "env" => {
                        self.at += 5;
                        Written::Variable(name.clone())
                    }
                    _ => Written::Opaque,
                }
            }
            _ => Written::Opaque,
        }
    }

    fn object(&mut self, depth: usize) -> Written {
        let mut members = Vec::new();
        while let Some(piece) = self.pieces.get(self.at) {
            match (&piece.token, self.sign(1, ':')) {
                (Token::Sign('}'), _) => {
                    self.at += 1;
                    break;
                }
                (Token::Sign(','), _) => self.at += 1,
                (Token::Word(name) | Token::Text(name, false) | Token::Number(name), true) => {
                    let name = name.clone();
                    self.at += 2;
                    members.push((name, self.value(depth + 1)));
                }
                // Short for `name: name`, a spread, a method: what it holds is not written here.
                _ => {
                    members.push((String::new(), Written::Opaque));
                    let before = self.at;
                    self.skip();
                    if self.at == before {
                        self.at += 1;
                    }
                }
            }
        }
        Written::Object(members)
    }

    /// Goes to the end of a value: the next `,` or closing bracket of the brackets that it stands in.
    fn skip(&mut self) {
        let mut open = 0_usize;
        while let Some(piece) = self.pieces.get(self.at) {
            match piece.token {
                Token::Sign('(' | '[' | '{') => open += 1,
                Token::Sign(')' | ']' | '}') if open == 0 => return,
                Token::Sign(')' | ']' | '}') => open -= 1,
                Token::Sign(',') if open == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }
}

fn user(database: String, written: &Written) -> Option<Vec<Statement>> {
    let name = written.get("user")?.text()?.to_owned();
    let roles = match written.get("roles") {
        Some(Written::List(roles)) => roles
            .iter()
            .map(|role| match role {
                Written::Text(role) => Some(role.clone()),
                role => {
                    let (name, own) = (role.get("role")?.text()?, role.get("db")?.text()?);
                    Some(if own == database { name.to_owned() } else { format!("{name}@{own}") })
                }
            })
            .collect::<Option<Vec<_>>>()?,
        None => Vec::new(),
        Some(_) => return None,
    };
    let password = match written.get("pwd") {
        // A script of the shell: `pwd: '$APP_PWD'`.
        Some(Written::Text(text)) => {
            super::shell::variable(text).map_or(Password::Literal, Password::Variable)
        }
        Some(Written::Variable(name)) => Password::Variable(name.clone()),
        _ => Password::Elsewhere,
    };
    Some(vec![Statement::User { database, name, roles, password }])
}

fn collection(database: String, name: &Written, options: Option<&Written>) -> Option<Vec<Statement>> {
    let name = name.text()?.to_owned();
    let (mut validator, mut other_options) = (None, Vec::new());
    if let Some(Written::Object(members)) = options {
        for (option, value) in members {
            match (option.as_str(), value.json()) {
                ("validator", Some(json)) => validator = Some(json),
                ("", _) => other_options.push("what is not written out".to_owned()),
                _ => other_options.push(option.clone()),
            }
        }
    }
    Some(vec![Statement::Collection { database, name, validator, other_options }])
}

/// The options of a call by their names, which are words of the server and no values.
fn option_names(options: Option<&Written>) -> String {
    let Some(Written::Object(options)) = options else { return String::new() };
    let is_word = |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic());
    let names: Vec<&str> = options.iter().map(|(name, _)| name.as_str()).filter(is_word).collect();
    if names.is_empty() { String::new() } else { format!(" with {}", names.join(", ")) }
}

fn index(
    database: String,
    collection: String,
    keys: &Written,
    options: Option<&Written>,
) -> Option<Statement> {
    let Written::Object(members) = keys else { return None };
    let keys = members
        .iter()
        .map(|(field, direction)| match direction {
            Written::Number(number) if number.starts_with('-') => Some(format!("-{field}")),
            Written::Number(_) => Some(field.clone()),
            Written::Text(kind) => Some(format!("{field}:{kind}")),
            _ => None,
        })
        .collect::<Option<Vec<_>>>()?;
    let mut unique = false;
    // An index without one of its options is another index.
    match options {
        None => {}
        Some(Written::Object(options)) => {
            for (option, value) in options {
                match (option.as_str(), value) {
                    ("unique", Written::Word(word @ ("true" | "false"))) => unique = *word == "true",
                    // It says how the index was built, and nothing since MongoDB 4.2.
                    ("background", _) => {}
                    _ => return None,
                }
            }
        }
        Some(_) => return None,
    }
    (!keys.is_empty()).then_some(Statement::Index { database, collection, keys, unique })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(script: &str) -> (Vec<String>, Vec<String>) {
        let read = scan(script, "test", 1);
        let found = read.found.iter().map(|(line, statement)| format!("{line}: {statement}")).collect();
        (found, read.unread.iter().map(|(line, what)| format!("{line}: {what}")).collect())
    }

    #[test]
    fn calls_are_read_with_their_database_and_place() {
        let (found, unread) = shown(
            r#"
// db.createUser({user: "not me"})
/* db.createCollection("nor me") */
const shop = db.getSiblingDB("shop"), other = 1;
shop.createCollection('orders', { validator: { $jsonSchema: { required: ["id"] } }, capped: true });
shop.orders.createIndex({ at: -1, name: 1 }, { unique: true });
shop["a.b"].createIndexes([{ text: "text" }, { x: 1 }]);
db.getSiblingDB('admin').getCollection("c").ensureIndex({ y: 1 });
use audit
db.createCollection("log");
rs.initiate({ _id: 'rs0', members: [{ _id: 0, host: "h:1" }] });
rs.status();
"#,
        );
        assert_eq!(
            found,
            [
                "5: collection shop.orders; not read: capped",
                "6: unique index of shop.orders on -at, name",
                "7: index of shop.a.b on text:text",
                "7: index of shop.a.b on x",
                "8: index of admin.c on y",
                "10: collection audit.log",
                "11: replica set rs0 of h:1",
            ]
        );
        assert!(unread.is_empty(), "{unread:?}");
    }

    #[test]
    fn an_index_is_read_with_all_of_its_options_or_not_at_all() {
        let (found, unread) = shown(
            "db.s.createIndex({ at: 1 }, { expireAfterSeconds: 60 });\n\
             db.s.createIndex({ a: 1 }, { unique: true, partialFilterExpression: { b: 'canary' } });\n\
             db.s.createIndex({ a: 1 }, options);\ndb.s.createIndex({ a: 1 }, { ...options });\n\
             db.s.createIndex({ a: 1 }, { unique: isUnique });\ndb.s.createIndexes([{ a: 1 }], { sparse: true });\n\
             db.s.createIndex({ a: 1 }, {});\ndb.s.createIndex({ b: 1 }, { unique: false, background: true });\n\
             db.s.createIndex({ c: 1 }, { unique: true, name: 'mine' });",
        );
        assert_eq!(found, ["7: index of test.s on a", "8: index of test.s on b"]);
        assert_eq!(
            unread,
            [
                "1: db.s.createIndex() with expireAfterSeconds",
                "2: db.s.createIndex() with unique, partialFilterExpression",
                "3: db.s.createIndex()",
                "4: db.s.createIndex()",
                "5: db.s.createIndex() with unique",
                "6: db.s.createIndexes() with sparse",
                "9: db.s.createIndex() with unique, name",
            ]
        );
    }

    #[test]
    fn what_is_not_understood_is_told_without_its_values() {
        let (found, unread) = shown(
            "db.users.insertOne({ password: 'canary' });\nload('canary.js');\nfor (const c of ['a']) {\n db.createCollection(c);\n}\n\
             db.createUser({ user: name, pwd: 'canary', roles: [] });\ndb.createUser({user: 'x', pwd: 'can' + 'ary', roles: ['read']});\n\
             db.getSiblingDB(`${canary}`).createCollection('x')",
        );
        assert_eq!(found, ["7: user test.x with read"]);
        assert_eq!(
            unread,
            [
                "1: db.users.insertOne()",
                "2: load(): what it brings in is not read",
                "3: `for`: what stands behind it may run many times, or never",
                "4: db.createCollection()",
                "6: db.createUser()",
                "8: getSiblingDB() of a name that is not written out",
            ]
        );
    }
}
