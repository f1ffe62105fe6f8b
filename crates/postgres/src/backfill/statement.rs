//! The statements of a backfill, put together from the declaration and the table's shape. Pure.
//!
//! What stands in the declaration is put between parentheses with a line break before the closing one, so that a comment at its end takes nothing
//! with it. Names that the statements need for themselves begin with `_mainstay_`, so that no name of the declaration means one of them.

use crate::quote::name;

use super::Work;

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    /// Its name.
    pub(super) name: String,
    /// Its type as SQL.
    pub(super) kind: String,
}

/// What of a table the statements need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// The columns of the primary key, in its order.
    pub(super) key: Vec<Column>,
    /// All others that can be set.
    pub(super) others: Vec<Column>,
}

/// Statements for one backfill of one table.
pub(super) struct Statements<'a> {
    pub(super) work: &'a Work<'a>,
    pub(super) shape: &'a Shape,
}

/// Which ends of a range are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) from: bool,
    pub(super) before: bool,
}

impl Statements<'_> {
    pub(super) fn table(&self) -> String {
        format!("{}.{}", name(self.work.schema), name(self.work.table))
    }

    /// The key's columns, as they stand in an order or on one side of a comparison.
    fn key(&self) -> String {
        self.shape.key.iter().map(|column| name(&column.name)).collect::<Vec<_>>().join(", ")
    }

    /// A key as the text that crosses: a JSON array of texts.
    fn key_text(&self) -> String {
        let parts: Vec<String> =
            self.shape.key.iter().map(|column| format!("{}::text", name(&column.name))).collect();
        format!("jsonb_build_array({})::text", parts.join(", "))
    }

    /// A key out of the text that is value number `place`.
    fn key_of(&self, place: usize) -> String {
        let parts: Vec<String> = (self.shape.key.iter().enumerate())
            .map(|(index, column)| format!("(${place}::text::jsonb ->> {index})::{}", column.kind))
            .collect();
        parts.join(", ")
    }

    /// The condition of a range, whose ends are the values numbers 1 (included) and 2 (not included); those that are not given are not looked at.
    fn range(&self, ends: Ends) -> String {
        let key = self.key();
        let from = match ends.from {
            true => format!("({key}) >= ({})", self.key_of(1)),
            false => "$1::text IS NULL".to_owned(),
        };
        let before = match ends.before {
            true => format!("({key}) < ({})", self.key_of(2)),
            false => "$2::text IS NULL".to_owned(),
        };
        format!("{from} AND {before}")
    }

    fn guard(&self) -> String {
        format!("({}\n)", self.work.guard)
    }

    /// Values: from, before, how many keys are passed by.
    pub(super) fn border(&self, ends: Ends) -> String {
        format!(
            "SELECT {} FROM {} WHERE {} ORDER BY {} OFFSET $3::text::bigint LIMIT 1",
            self.key_text(),
            self.table(),
            self.range(ends),
            self.key()
        )
    }

    /// The rows that the guard means, locked, with their keys and the values that will change.
    fn picked(&self, condition: &str, more: &str, tail: &str) -> String {
        let keys = (self.shape.key.iter().enumerate())
            .map(|(index, column)| format!("{} AS _mainstay_k{index}", name(&column.name)));
        let values = (self.work.set.iter().enumerate())
            .map(|(index, (column, _))| format!("{}::text AS _mainstay_b{index}", name(column)));
        let columns: Vec<String> = keys.chain(values).collect();
        format!(
            "picked AS MATERIALIZED (SELECT {}{more} FROM {} WHERE {condition} AND {} ORDER BY {} {tail})",
            columns.join(", "),
            self.table(),
            self.guard(),
            self.key()
        )
    }

    /// The update of what was picked. The condition that it was picked by stands here again, so that the server finds the rows by the key's index
    /// whatever it thinks of how many were picked.
    fn changed(&self, condition: &str, returning: &str) -> String {
        let set: Vec<String> = (self.work.set.iter())
            .map(|(column, expression)| format!("{} = ({expression}\n)", name(column)))
            .collect();
        format!(
            "changed AS (UPDATE {} SET {} FROM picked WHERE {} AND {condition} AND {} RETURNING {returning})",
            self.table(),
            set.join(", "),
            self.joined("picked"),
            self.guard()
        )
    }

    fn joined(&self, with: &str) -> String {
        let table = name(self.work.table);
        let pairs: Vec<String> = (self.shape.key.iter().enumerate())
            .map(|(index, column)| format!("{table}.{} = {with}._mainstay_k{index}", name(&column.name)))
            .collect();
        pairs.join(" AND ")
    }

    fn numbered(&self, letter: char, count: usize, cast: &str) -> String {
        let names: Vec<String> = (0..count).map(|index| format!("_mainstay_{letter}{index}{cast}")).collect();
        format!("jsonb_build_array({})", names.join(", "))
    }

    /// Values: from, before; with what is kept also run, round, segment, part. Gives how many rows were changed.
    pub(super) fn step(&self, ends: Ends) -> String {
        let table = name(self.work.table);
        let (keys, values) = (self.shape.key.len(), self.work.set.len());
        let mut returned: Vec<String> = (0..keys).map(|index| format!("_mainstay_k{index}")).collect();
        returned.extend((0..values).map(|index| format!("_mainstay_b{index}")));
        returned.extend(
            (self.work.set.iter().enumerate())
                .map(|(index, (column, _))| format!("{table}.{}::text AS _mainstay_a{index}", name(column))),
        );
        let mut parts = vec![
            self.picked(&self.range(ends), "", "FOR UPDATE"),
            self.changed(&self.range(ends), &returned.join(", ")),
        ];
        if self.work.keeps_undo {
            parts.push(format!(
                "kept AS (INSERT INTO mainstay.backfill_undo (run, round, segment, part, count, entries) \
                 SELECT $3::text, $4::text::bigint, $5::text::bigint, $6::text::bigint, count(*), \
                 jsonb_agg(jsonb_build_array({}, {}, {})) FROM changed HAVING count(*) > 0)",
                self.numbered('k', keys, "::text"),
                self.numbered('b', values, ""),
                self.numbered('a', values, "")
            ));
        }
        format!("WITH {} SELECT count(*)::text FROM changed", parts.join(", "))
    }

    /// Value: how many rows. Gives of each its key and what differs: `[[column, before, after], …]`.
    pub(super) fn trial(&self) -> String {
        let table = name(self.work.table);
        let (keys, values) = (self.shape.key.len(), self.work.set.len());
        let mut returned: Vec<String> = (0..keys).map(|index| format!("_mainstay_k{index}")).collect();
        returned.extend((0..values).map(|index| format!("_mainstay_b{index}")));
        returned.push("_mainstay_old".to_owned());
        returned.push(format!("to_jsonb({table}.*) AS _mainstay_new"));
        let picked = self.picked(
            "true",
            &format!(", to_jsonb({table}.*) AS _mainstay_old"),
            "LIMIT $1::text::bigint FOR UPDATE SKIP LOCKED",
        );
        format!(
            "WITH {picked}, {} SELECT {}::text, (SELECT coalesce(jsonb_agg(jsonb_build_array(n.key, o.value, n.value)), '[]')::text \
             FROM jsonb_each_text(_mainstay_new) n JOIN jsonb_each_text(_mainstay_old) o USING (key) \
             WHERE n.value IS DISTINCT FROM o.value) FROM changed ORDER BY {}",
            self.changed("true", &returned.join(", ")),
            self.numbered('k', keys, "::text"),
            (0..keys).map(|index| format!("_mainstay_k{index}")).collect::<Vec<_>>().join(", ")
        )
    }

    /// Value: a JSON array of keys. Gives those that the guard means.
    pub(super) fn still_guarded(&self) -> String {
        let texts: Vec<String> =
            self.shape.key.iter().map(|column| format!("{}::text", name(&column.name))).collect();
        let parts: Vec<String> = (0..texts.len()).map(|index| format!("e ->> {index}")).collect();
        format!(
            "SELECT {} FROM {} WHERE {} AND ({}) IN (SELECT {} FROM jsonb_array_elements($1::text::jsonb) e)",
            self.key_text(),
            self.table(),
            self.guard(),
            texts.join(", "),
            parts.join(", ")
        )
    }

    /// Gives how many rows a condition is true of.
    pub(super) fn count(&self, condition: &str) -> String {
        format!("SELECT count(*)::text FROM {} WHERE ({condition}\n)", self.table())
    }

    /// Never run, only taken by the server: what is declared, between brackets. Elsewhere it stands between parentheses, and what is whole in both
    /// closes neither: `a) OR (b` would be two conditions there, of which the second knows nothing of ranges and keys.
    pub(super) fn bracketed(&self) -> String {
        let set = self.work.set.iter().map(|(_, expression)| expression.as_str());
        let declared = std::iter::once(self.work.guard).chain(self.work.verify).chain(set);
        let arrays: Vec<String> = declared.map(|text| format!("ARRAY[{text}\n]")).collect();
        format!("EXPLAIN SELECT {} FROM {}", arrays.join(", "), self.table())
    }

    /// How the server would find what the guard means.
    pub(super) fn explained(&self) -> String {
        format!("EXPLAIN (FORMAT JSON) SELECT 1 FROM {} WHERE {}", self.table(), self.guard())
    }

    /// Value: the share of pages that are drawn, in percent. Gives keys in their order.
    pub(super) fn sample(&self) -> String {
        format!(
            "SELECT {} FROM {} TABLESAMPLE SYSTEM ($1::text::real) ORDER BY {}",
            self.key_text(),
            self.table(),
            self.key()
        )
    }

    /// Value: the number of a part. Brings back what is as the backfill left it; gives how many rows, and how many others there are.
    pub(super) fn undo(&self) -> String {
        let table = name(self.work.table);
        let keys = (self.shape.key.iter().enumerate())
            .map(|(index, column)| format!("(e -> 0 ->> {index})::{} AS _mainstay_k{index}", column.kind));
        let values = (0..self.work.set.len()).flat_map(|index| {
            [
                format!("e -> 1 ->> {index} AS _mainstay_b{index}"),
                format!("e -> 2 ->> {index} AS _mainstay_a{index}"),
            ]
        });
        let saved: Vec<String> = keys.chain(values).collect();
        let kind = |column: &str| {
            let found = self.shape.others.iter().find(|other| other.name == column);
            found.map_or("text", |found| found.kind.as_str())
        };
        let set: Vec<String> = (self.work.set.iter().enumerate())
            .map(|(index, (column, _))| {
                format!("{} = saved._mainstay_b{index}::{}", name(column), kind(column))
            })
            .collect();
        let same: Vec<String> = (self.work.set.iter().enumerate())
            .map(|(index, (column, _))| {
                format!("{table}.{}::text IS NOT DISTINCT FROM saved._mainstay_a{index}", name(column))
            })
            .collect();
        format!(
            "WITH saved AS MATERIALIZED (SELECT (e -> 0)::text AS _mainstay_key, {} FROM mainstay.backfill_undo u, \
             jsonb_array_elements(u.entries) e WHERE u.number = $1::text::bigint AND NOT u.undone), \
             restored AS (UPDATE {} SET {} FROM saved WHERE {} AND {} RETURNING saved._mainstay_key), \
             others AS (SELECT _mainstay_key FROM saved EXCEPT SELECT _mainstay_key FROM restored) \
             UPDATE mainstay.backfill_undo SET undone = true, entries = NULL, \
             restored = (SELECT count(*) FROM restored), \
             left_behind = (SELECT coalesce(jsonb_agg(_mainstay_key), '[]') FROM others) \
             WHERE number = $1::text::bigint AND NOT undone \
             RETURNING restored::text, jsonb_array_length(left_behind)::text",
            saved.join(", "),
            self.table(),
            set.join(", "),
            self.joined("saved"),
            same.join(" AND ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_name_what_was_declared_and_nothing_else() {
        let set = vec![("points".to_owned(), "coalesce(old, 0) -- why".to_owned())];
        let work = Work {
            id: "x",
            schema: "public",
            table: "user\"s",
            guard: "points IS NULL -- all",
            set: &set,
            verify: None,
            keeps_undo: true,
        };
        let column = |name: &str, kind: &str| Column { name: name.to_owned(), kind: kind.to_owned() };
        let shape = Shape {
            key: vec![column("tenant", "integer"), column("id", "uuid")],
            others: vec![column("points", "bigint")],
        };
        let statements = Statements { work: &work, shape: &shape };
        let step = statements.step(Ends { from: true, before: false });
        assert!(step.contains(
            "(\"tenant\", \"id\") >= (($1::text::jsonb ->> 0)::integer, ($1::text::jsonb ->> 1)::uuid) AND $2::text IS NULL"
        ), "{step}");
        assert!(step.contains("(points IS NULL -- all\n)"), "{step}");
        assert!(step.contains("SET \"points\" = (coalesce(old, 0) -- why\n)"), "{step}");
        assert!(step.contains("\"user\"\"s\".\"id\" = picked._mainstay_k1"), "{step}");
        assert!(step.contains("INSERT INTO mainstay.backfill_undo"), "{step}");
        assert_eq!(
            statements.bracketed(),
            "EXPLAIN SELECT ARRAY[points IS NULL -- all\n], ARRAY[coalesce(old, 0) -- why\n] FROM \"public\".\"user\"\"s\""
        );
        let undo = statements.undo();
        assert!(undo.contains("SET \"points\" = saved._mainstay_b0::bigint"), "{undo}");
        let gone = Work { keeps_undo: false, ..work };
        let step = Statements { work: &gone, shape: &shape }.step(Ends { from: false, before: false });
        assert!(!step.contains("backfill_undo"), "{step}");
    }
}
