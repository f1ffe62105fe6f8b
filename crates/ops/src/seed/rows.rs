//! The rows of a seed's file: JSON, JSON lines or CSV. Pure.
//!
//! JSON is one array of objects, or one object on each line; values may be Extended JSON. The header of CSV names the fields, each with a type
//! after a colon where it is no text: `points:int`, `long`, `double`, `decimal`, `bool`, `date`, `oid`, `json`. An empty cell that is not quoted
//! leaves its field out of a document, and is null in a table. Refuses what could not be meant: no rows of objects, a field twice, names with a
//! dot or a leading dollar sign, a natural key that a row lacks or that two rows share.

use std::collections::BTreeSet;

use mainstay_engine::{SeedPlace, SeedRow};
use mainstay_indexes::Json;
use mainstay_model::StoreKind;

/// How many rows a seed may have.
const ROWS_MAX: usize = 100_000;

/// A file whose rows cannot be seeded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadRowsError {
    /// The name ends in none of the known ways.
    #[error("its name ends in none of .json, .ejson, .jsonl, .ndjson, .csv")]
    Form,
    /// The text is not what its name says.
    #[error("line {line}: {what}")]
    Syntax {
        /// From 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A row that cannot be seeded.
    #[error("row {row}: {what}")]
    Row {
        /// From 1.
        row: usize,
        /// What is wrong.
        what: String,
    },
    /// Too much.
    #[error("it has more than {ROWS_MAX} rows; that is no seed but data to restore")]
    TooMany,
}

/// The rows of a file called `name` that holds `text`, for `place` of a store of that kind.
///
/// # Errors
/// [`ReadRowsError`].
pub fn read(
    name: &str,
    text: &str,
    store: StoreKind,
    place: &SeedPlace,
) -> Result<Vec<SeedRow>, ReadRowsError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rows = match name.rsplit('.').next().unwrap_or_default() {
        "json" | "ejson" => array(text)?,
        "jsonl" | "ndjson" => lines(text)?,
        "csv" => table(text, store)?,
        _ => return Err(ReadRowsError::Form),
    };
    check(&rows, store, place)?;
    Ok(rows)
}

fn array(text: &str) -> Result<Vec<SeedRow>, ReadRowsError> {
    let json = Json::parse(text).map_err(|error| syntax(error.line(), &error))?;
    let items = json
        .items()
        .ok_or_else(|| ReadRowsError::Syntax { line: 1, what: "expected an array of objects".to_owned() })?;
    items.iter().enumerate().map(|(index, item)| row(index, item)).collect()
}

fn lines(text: &str) -> Result<Vec<SeedRow>, ReadRowsError> {
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let json = Json::parse(line).map_err(|error| syntax(index + 1, &error))?;
        rows.push(row(rows.len(), &json)?);
    }
    Ok(rows)
}

/// What the reader of JSON says, without the line that it counts itself.
fn syntax(line: usize, error: &serde_json::Error) -> ReadRowsError {
    let what = error.to_string();
    let what = what.split(" at line ").next().unwrap_or(&what).to_owned();
    ReadRowsError::Syntax { line, what }
}

fn row(index: usize, json: &Json) -> Result<SeedRow, ReadRowsError> {
    let members = json
        .members()
        .ok_or_else(|| ReadRowsError::Row { row: index + 1, what: "it is no object".to_owned() })?;
    Ok(SeedRow(members.iter().map(|(field, value)| (field.clone(), value.to_string())).collect()))
}

fn table(text: &str, store: StoreKind) -> Result<Vec<SeedRow>, ReadRowsError> {
    let mut records = Records { rest: text, line: 1, begun: 1 };
    let header = records
        .next()?
        .ok_or_else(|| ReadRowsError::Syntax { line: 1, what: "it has no header".to_owned() })?;
    let columns = header
        .iter()
        .map(|cell| Column::of(&cell.text))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|what| ReadRowsError::Syntax { line: 1, what })?;
    let mut rows = Vec::new();
    loop {
        let Some(cells) = records.next()? else { return Ok(rows) };
        let line = records.begun;
        if cells.len() != columns.len() {
            let what = format!("it has {} cells, the header {}", cells.len(), columns.len());
            return Err(ReadRowsError::Syntax { line, what });
        }
        let mut fields = Vec::new();
        for (column, cell) in columns.iter().zip(&cells) {
            let value = column.value(cell, store).map_err(|what| ReadRowsError::Syntax { line, what })?;
            fields.extend(value.map(|value| (column.field.clone(), value)));
        }
        rows.push(SeedRow(fields));
        if rows.len() > ROWS_MAX {
            return Err(ReadRowsError::TooMany);
        }
    }
}

/// A cell of CSV.
struct Cell {
    text: String,
    is_quoted: bool,
}

/// Records of CSV (RFC 4180): cells between commas, quoted where they hold commas, quotes or ends of lines.
struct Records<'a> {
    rest: &'a str,
    line: usize,
    /// The line at which the record begins that was read last.
    begun: usize,
}

impl Records<'_> {
    fn next(&mut self) -> Result<Option<Vec<Cell>>, ReadRowsError> {
        // An empty line is no record.
        while let Some(rest) = self.rest.strip_prefix("\r\n").or_else(|| self.rest.strip_prefix('\n')) {
            self.rest = rest;
            self.line += 1;
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.begun = self.line;
        let mut cells = Vec::new();
        loop {
            cells.push(self.cell()?);
            if let Some(rest) = self.rest.strip_prefix(',') {
                self.rest = rest;
                continue;
            }
            if let Some(rest) = self.rest.strip_prefix("\r\n").or_else(|| self.rest.strip_prefix('\n')) {
                self.rest = rest;
                self.line += 1;
            }
            return Ok(Some(cells));
        }
    }

    fn cell(&mut self) -> Result<Cell, ReadRowsError> {
        let Some(mut quoted) = self.rest.strip_prefix('"') else {
            let end = self.rest.find([',', '\n']).unwrap_or(self.rest.len());
            let (text, rest) = self.rest.split_at(end);
            self.rest = rest;
            let text = if rest.starts_with('\n') { text.strip_suffix('\r').unwrap_or(text) } else { text };
            return Ok(Cell { text: text.to_owned(), is_quoted: false });
        };
        let (begun, mut text) = (self.line, String::new());
        loop {
            let Some(end) = quoted.find('"') else {
                let what = "a quote is not closed".to_owned();
                return Err(ReadRowsError::Syntax { line: begun, what });
            };
            text.push_str(&quoted[..end]);
            quoted = &quoted[end + 1..];
            match quoted.strip_prefix('"') {
                Some(rest) => {
                    text.push('"');
                    quoted = rest;
                }
                None => break,
            }
        }
        self.line += text.matches('\n').count();
        if !(quoted.is_empty() || quoted.starts_with([',', '\n']) || quoted.starts_with("\r\n")) {
            let what = "text behind a closing quote".to_owned();
            return Err(ReadRowsError::Syntax { line: self.line, what });
        }
        self.rest = quoted;
        Ok(Cell { text, is_quoted: true })
    }
}

/// A column of CSV: which field, of which type.
struct Column {
    field: String,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Int,
    Long,
    Double,
    Decimal,
    Bool,
    Date,
    ObjectId,
    Json,
}

const KINDS: [(&str, Kind); 9] = [
    ("text", Kind::Text),
    ("int", Kind::Int),
    ("long", Kind::Long),
    ("double", Kind::Double),
    ("decimal", Kind::Decimal),
    ("bool", Kind::Bool),
    ("date", Kind::Date),
    ("oid", Kind::ObjectId),
    ("json", Kind::Json),
];

impl Column {
    fn of(header: &str) -> Result<Self, String> {
        if header.trim() != header {
            return Err(format!("the header has blanks around `{}`", cut(header.trim())));
        }
        let Some((field, kind)) = header.rsplit_once(':') else {
            return Ok(Self { field: header.to_owned(), kind: Kind::Text });
        };
        match KINDS.iter().find(|(name, _)| *name == kind) {
            Some((_, kind)) => Ok(Self { field: field.to_owned(), kind: *kind }),
            None => Err(format!("`{kind}` is no type; known are {}", KINDS.map(|(name, _)| name).join(", "))),
        }
    }

    /// The value of a cell as JSON text; `None` when the field is to be left out.
    fn value(&self, cell: &Cell, store: StoreKind) -> Result<Option<String>, String> {
        let text = cell.text.as_str();
        if text.is_empty() && !cell.is_quoted {
            return Ok((store == StoreKind::Postgres).then(|| "null".to_owned()));
        }
        let wrapped = |name: &str| Json::object([(name, Json::from(text))]).to_string();
        let refuse = |what: &str| format!("`{}` of column {} is no {what}", cut(text), self.field);
        let value = match self.kind {
            Kind::Text => Json::from(text).to_string(),
            Kind::Bool => match text {
                "true" | "false" => text.to_owned(),
                _ => return Err(refuse("true or false")),
            },
            Kind::Json => {
                Json::parse(text).map_err(|error| format!("{}: {error}", refuse("JSON")))?.to_string()
            }
            // A table's own types read these by themselves.
            _ if store == StoreKind::Postgres => Json::from(text).to_string(),
            Kind::Int => text.parse::<i32>().map_err(|_| refuse("whole number of 32 bits"))?.to_string(),
            Kind::Long => {
                text.parse::<i64>().map_err(|_| refuse("whole number of 64 bits"))?;
                wrapped("$numberLong")
            }
            Kind::Double => {
                text.parse::<f64>().map_err(|_| refuse("number"))?;
                wrapped("$numberDouble")
            }
            Kind::Decimal => wrapped("$numberDecimal"),
            Kind::Date => {
                text.parse::<jiff::Timestamp>().map_err(|_| refuse("moment such as 2026-01-31T12:00:00Z"))?;
                wrapped("$date")
            }
            Kind::ObjectId => wrapped("$oid"),
        };
        Ok(Some(value))
    }
}

fn cut(text: &str) -> String {
    text.chars().take(40).collect()
}

fn check(rows: &[SeedRow], store: StoreKind, place: &SeedPlace) -> Result<(), ReadRowsError> {
    if rows.len() > ROWS_MAX {
        return Err(ReadRowsError::TooMany);
    }
    let mut keys = BTreeSet::new();
    for (index, row) in rows.iter().enumerate() {
        let refuse = |what: String| ReadRowsError::Row { row: index + 1, what };
        let mut fields = BTreeSet::new();
        for (field, value) in &row.0 {
            // The server would say so only when a collection is empty already.
            let is_id = store == StoreKind::Mongo && field == "_id";
            if is_id && (value.starts_with('[') || value.starts_with("{\"$reg")) {
                return Err(refuse("its _id is an array or a pattern, which none may be".to_owned()));
            }
            if !fields.insert(field) {
                return Err(refuse(format!("it has the field {field} twice")));
            }
            if field.is_empty() || field.starts_with('$') || field.contains(['.', '\0']) {
                return Err(refuse(format!("`{}` is no name of a field that can be seeded", cut(field))));
            }
        }
        let value = |name: &String| row.0.iter().find(|(field, _)| field == name).map(|(_, value)| value);
        let key = place.key.iter().map(value).collect::<Option<Vec<_>>>();
        let key = key.ok_or_else(|| refuse(format!("it lacks its natural key {}", place.key.join(", "))))?;
        if key.iter().any(|value| *value == "null") {
            return Err(refuse(format!("its natural key {} is null", place.key.join(", "))));
        }
        let is_new = match store {
            StoreKind::Mongo => keys.insert(key.iter().map(|value| compared(value)).collect::<Vec<_>>()),
            _ => keys.insert(key.iter().map(|value| (*value).clone()).collect()),
        };
        if !is_new {
            let key = key.into_iter().map(|value| cut(value)).collect::<Vec<_>>().join(", ");
            return Err(refuse(format!("a row before it has the same natural key {key}")));
        }
    }
    Ok(())
}

/// A value of a key as MongoDB compares it: a whole number is the same whatever its type is.
fn compared(value: &str) -> String {
    // Beyond this not every whole number is a double.
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    let number = match value.strip_prefix("{\"$number") {
        Some(rest) => rest.split('"').nth(2).unwrap_or_default(),
        None => value,
    };
    if let Ok(whole) = number.parse::<i64>() {
        return whole.to_string();
    }
    match number.parse::<f64>() {
        // Zero has a sign otherwise.
        Ok(number) if number.fract() == 0.0 && number.abs() < WHOLE_MAX => format!("{:.0}", number + 0.0),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn rows_of(name: &str, text: &str, store: StoreKind) -> Result<Vec<String>, String> {
        let place = SeedPlace { into: "c".to_owned(), key: vec!["slug".to_owned()] };
        let rows = read(name, text, store, &place).map_err(|error| error.to_string())?;
        Ok(rows.iter().map(SeedRow::text).collect())
    }

    #[test]
    fn rows_are_read_in_every_form() {
        let expected = [r#"{"slug":"a","n":1}"#, r#"{"slug":"b","n":2}"#];
        for (name, text) in [
            ("r.json", "\u{feff}[{\"slug\": \"a\", \"n\": 1},\n {\"slug\":\"b\",\"n\":2}]"),
            ("r.ejson", "[{\"slug\": \"a\", \"n\": 1}, {\"slug\":\"b\",\"n\":2}]"),
            ("r.jsonl", "{\"slug\":\"a\",\"n\":1}\n\n{\"slug\":\"b\",\"n\":2}\n"),
            ("r.csv", "slug,n:int\r\na,1\r\n\r\n\"b\",2\r\n"),
        ] {
            assert_eq!(rows_of(name, text, StoreKind::Mongo).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn cells_have_types_and_may_hold_anything() {
        let text = "slug,n:long,d:double,m:decimal,b:bool,at:date,id:oid,j:json,t\n\
                    \"a \"\"b\"\",\nc\",7,0.5,12.10,true,2026-01-31T00:00:00Z,0123456789abcdef01234567,\"{\"\"x\"\":[1]}\",\n";
        let mongo = r#"{"slug":"a \"b\",\nc","n":{"$numberLong":"7"},"d":{"$numberDouble":"0.5"},"m":{"$numberDecimal":"12.10"},"b":true,"at":{"$date":"2026-01-31T00:00:00Z"},"id":{"$oid":"0123456789abcdef01234567"},"j":{"x":[1]}}"#;
        assert_eq!(rows_of("r.csv", text, StoreKind::Mongo).unwrap(), [mongo]);
        let postgres = r#"{"slug":"a \"b\",\nc","n":"7","d":"0.5","m":"12.10","b":true,"at":"2026-01-31T00:00:00Z","id":"0123456789abcdef01234567","j":{"x":[1]},"t":null}"#;
        assert_eq!(rows_of("r.csv", text, StoreKind::Postgres).unwrap(), [postgres]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place() {
        for (name, text, expected) in [
            ("r.yaml", "", "its name ends in none"),
            ("r.json", "{}", "line 1: expected an array of objects"),
            ("r.json", "[1]", "row 1: it is no object"),
            ("r.json", "[{\"slug\":\"a\"},\n{]", "line 2: "),
            ("r.json", "[{\"slug\":1,\"slug\":2}]", "row 1: it has the field slug twice"),
            ("r.json", "[{\"slug\":1,\"a.b\":2}]", "row 1: `a.b` is no name"),
            ("r.json", "[{\"slug\":1,\"$set\":2}]", "row 1: `$set` is no name"),
            ("r.json", "[{\"n\":1}]", "row 1: it lacks its natural key slug"),
            ("r.json", "[{\"slug\":null}]", "row 1: its natural key slug is null"),
            (
                "r.json",
                "[{\"slug\":\"a\"},{\"slug\":\"a\"}]",
                "row 2: a row before it has the same natural key \"a\"",
            ),
            (
                "r.json",
                "[{\"slug\":1},{\"slug\":1.0}]",
                "row 2: a row before it has the same natural key 1.0",
            ),
            ("r.json", "[{\"slug\":\"a\",\"_id\":[1]}]", "row 1: its _id is an array"),
            ("r.csv", "slug, n\na,1\n", "line 1: the header has blanks around `n`"),
            ("r.jsonl", "{\"slug\":1}\nx", "line 2: "),
            ("r.csv", "", "line 1: it has no header"),
            ("r.csv", "slug,n:number\n", "line 1: `number` is no type"),
            ("r.csv", "slug,n:int\na,x\n", "line 2: `x` of column n is no whole number"),
            ("r.csv", "slug,n:int\n\na\n", "line 3: it has 1 cells, the header 2"),
            ("r.csv", "slug\n\"a\n", "line 2: a quote is not closed"),
            ("r.csv", "slug\n\"a\"b\n", "line 2: text behind a closing quote"),
        ] {
            let error = rows_of(name, text, StoreKind::Mongo).unwrap_err();
            assert!(error.starts_with(expected), "{name} {text:?}: {error}");
        }
    }

    #[test]
    fn whole_numbers_are_one_key_whatever_their_types() {
        for (value, expected) in [
            ("7", "7"),
            ("7.0", "7"),
            (r#"{"$numberLong":"7"}"#, "7"),
            (r#"{"$numberDecimal":"7.00"}"#, "7"),
            (r#"{"$numberDouble":"-0.0"}"#, "0"),
            ("7.5", "7.5"),
            (r#"{"$numberDecimal":"0.1"}"#, r#"{"$numberDecimal":"0.1"}"#),
            (r#"{"$numberDouble":"NaN"}"#, r#"{"$numberDouble":"NaN"}"#),
            (r#"{"$numberLong":"9007199254740993"}"#, "9007199254740993"),
            (r#""7""#, r#""7""#),
        ] {
            assert_eq!(compared(value), expected, "{value}");
        }
    }
}
