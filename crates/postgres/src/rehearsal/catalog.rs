//! What is in a database, as sorted texts that are equal when the things are.
//!
//! The server writes each definition itself (`pg_get_constraintdef` and its kin), with an empty search path and fixed ways of writing dates and
//! numbers, in one read-only snapshot. Numbers of objects, their owners, the order of columns, statistics and comments are left out: two
//! databases of the same history differ in them. What belongs to an extension is told by the extension and its version alone. A
//! constraint tells its index, a partitioned table's constraint, index and trigger those of its partitions.

use mainstay_engine::{CatalogObject, CatalogScope, TableName};
use mainstay_model::Result;

use crate::config::Settings;
use crate::quote::literal;
use crate::session::Session;

/// How definitions are written.
const SETTINGS: &str = "\
    SELECT set_config('search_path', '', false); \
    SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'iso_8601'; SET TimeZone = 'UTC'; SET extra_float_digits = 1; \
    SET quote_all_identifiers = off";
/// All of it as it was at one moment.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Schemas that are nobody's.
const SCHEMAS: &str = "n.nspname !~ '^pg_' AND n.nspname <> ALL (@schemas@)";

/// Tables that are left out, and the sequences that belong to them.
const LEFT_OUT: &str = r"
WITH named AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE (n.nspname, c.relname) IN (@tables@))
SELECT oid FROM named UNION
SELECT d.objid FROM pg_depend d JOIN named ON named.oid = d.refobjid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')";

/// Each kind of thing, and a query for name and definition. `@here@` holds for schemas that are compared, `@skip@` is a list of relations that are
/// not, `@apart@` holds for schemas of none of these, `@own(x, y)@` holds unless an extension brought what has the number `y` in the catalog `x`.
const KINDS: &[(&str, &str)] = &[
    (
        "schema",
        r"
SELECT quote_ident(n.nspname) AS name, '' AS definition FROM pg_namespace n WHERE @here@ AND @apart@ AND @own(pg_namespace, n.oid)@",
    ),
    (
        "extension",
        r"
SELECT quote_ident(e.extname) AS name, concat('version ', e.extversion, ' in schema ', quote_ident(n.nspname)) AS definition
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace",
    ),
    (
        "enum",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(t.typname)) AS name,
(SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid) AS definition
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype = 'e' AND @here@ AND @own(pg_type, t.oid)@",
    ),
    (
        "domain",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(t.typname)) AS name,
concat_ws(' ', format_type(t.typbasetype, t.typtypmod),
CASE WHEN t.typcollation <> 0 AND t.typcollation <> b.typcollation THEN 'COLLATE ' || t.typcollation::regcollation END,
CASE WHEN t.typnotnull THEN 'NOT NULL' END, 'DEFAULT ' || t.typdefault,
(SELECT string_agg(concat('CONSTRAINT ', quote_ident(k.conname), ' ', pg_get_constraintdef(k.oid)), ' ' ORDER BY k.conname)
FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c')) AS definition
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_type b ON b.oid = t.typbasetype
WHERE t.typtype = 'd' AND @here@ AND @own(pg_type, t.oid)@",
    ),
    (
        "type",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(c.relname)) AS name,
(SELECT string_agg(concat(quote_ident(a.attname), ' ', format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS definition
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'c' AND @here@ AND @own(pg_type, c.reltype)@",
    ),
    (
        "range",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(t.typname)) AS name, format_type(r.rngsubtype, NULL) AS definition
FROM pg_range r JOIN pg_type t ON t.oid = r.rngtypid JOIN pg_namespace n ON n.oid = t.typnamespace WHERE @here@ AND @own(pg_type, t.oid)@",
    ),
    (
        "sequence",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(c.relname)) AS name,
concat('AS ', format_type(s.seqtypid, NULL), ' START ', s.seqstart, ' INCREMENT ', s.seqincrement, ' MINVALUE ', s.seqmin, ' MAXVALUE ', s.seqmax,
' CACHE ', s.seqcache, CASE WHEN s.seqcycle THEN ' CYCLE' END,
(SELECT concat(' OWNED BY ', d.refobjid::regclass, '.', quote_ident(a.attname)) FROM pg_depend d
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') LIMIT 1)) AS definition
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence s ON s.seqrelid = c.oid
WHERE @here@ AND @skip(c.oid)@ AND @own(pg_class, c.oid)@",
    ),
    (
        "table",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(c.relname)) AS name,
concat_ws(' ', CASE c.relkind WHEN 'f' THEN 'foreign' WHEN 'p' THEN 'partitioned' ELSE 'ordinary' END,
CASE WHEN c.relpersistence = 'u' THEN 'UNLOGGED' END, 'PARTITION BY ' || pg_get_partkeydef(c.oid),
(SELECT string_agg(concat('INHERITS ', i.inhparent::regclass), ' ' ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = c.oid),
pg_get_expr(c.relpartbound, c.oid), 'WITH (' || array_to_string(c.reloptions, ', ') || ')',
CASE WHEN c.relrowsecurity THEN 'ROW LEVEL SECURITY' END, CASE WHEN c.relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' END,
CASE c.relreplident WHEN 'f' THEN 'REPLICA IDENTITY FULL' WHEN 'n' THEN 'REPLICA IDENTITY NOTHING' END) AS definition
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f') AND @here@ AND @skip(c.oid)@ AND @own(pg_class, c.oid)@",
    ),
    (
        "column",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(c.relname), '.', quote_ident(a.attname)) AS name,
concat_ws(' ', format_type(a.atttypid, a.atttypmod),
CASE WHEN a.attcollation <> 0 AND a.attcollation <> t.typcollation THEN 'COLLATE ' || a.attcollation::regcollation END,
CASE WHEN a.attnotnull THEN 'NOT NULL' END,
CASE a.attgenerated WHEN '' THEN 'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid)
ELSE concat('GENERATED ALWAYS AS (', pg_get_expr(d.adbin, d.adrelid), CASE a.attgenerated WHEN 's' THEN ') STORED' ELSE ') VIRTUAL' END) END,
CASE a.attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY' WHEN 'd' THEN 'GENERATED BY DEFAULT AS IDENTITY' END) AS definition
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f') AND @here@ AND @skip(c.oid)@ AND @own(pg_class, c.oid)@",
    ),
    (
        "constraint",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(c.relname), '.', quote_ident(k.conname)) AS name, pg_get_constraintdef(k.oid) AS definition
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype <> 't' AND (k.contype <> 'n' OR NOT k.convalidated) AND k.conparentid = 0 AND (k.conislocal OR k.coninhcount = 0)
AND @here@ AND @skip(c.oid)@ AND @own(pg_class, c.oid)@",
    ),
    (
        "index",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(x.relname)) AS name,
concat(pg_get_indexdef(i.indexrelid), CASE WHEN NOT i.indisvalid THEN ' INVALID' END, CASE WHEN i.indisclustered THEN ' CLUSTERED' END,
CASE WHEN i.indisreplident THEN ' REPLICA IDENTITY' END) AS definition
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = x.relnamespace
WHERE NOT x.relispartition AND c.relkind IN ('r', 'p', 'm')
AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
AND @here@ AND @skip(c.oid)@ AND @own(pg_class, c.oid)@",
    ),
    (
        "view",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(c.relname)) AS name,
concat(CASE c.relkind WHEN 'm' THEN 'materialized ' END, 'WITH (' || array_to_string(c.reloptions, ', ') || ') ', pg_get_viewdef(c.oid)) AS definition
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND @here@ AND @skip(c.oid)@ AND @own(pg_class, c.oid)@",
    ),
    (
        "function",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(p.proname), '(', pg_get_function_identity_arguments(p.oid), ')') AS name,
CASE WHEN p.prokind = 'a' THEN (SELECT concat('aggregate of ', g.aggtransfn, ' over ', format_type(g.aggtranstype, NULL), ' ended by ', g.aggfinalfn)
FROM pg_aggregate g WHERE g.aggfnoid = p.oid) ELSE pg_get_functiondef(p.oid) END AS definition
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE @here@ AND @own(pg_proc, p.oid)@
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')",
    ),
    (
        "trigger",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(c.relname), '.', quote_ident(t.tgname)) AS name,
concat(pg_get_triggerdef(t.oid), CASE t.tgenabled WHEN 'D' THEN ' DISABLED' WHEN 'R' THEN ' ENABLED REPLICA' WHEN 'A' THEN ' ENABLED ALWAYS' END) AS definition
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND @here@ AND @skip(c.oid)@ AND @own(pg_class, c.oid)@",
    ),
    (
        "rule",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(c.relname), '.', quote_ident(r.rulename)) AS name, pg_get_ruledef(r.oid) AS definition
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.rulename <> '_RETURN' AND @here@ AND @skip(c.oid)@ AND @own(pg_class, c.oid)@",
    ),
    (
        "policy",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(c.relname), '.', quote_ident(p.polname)) AS name,
concat_ws(' ', CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END, 'FOR ' || p.polcmd::text,
(SELECT 'TO ' || string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r)::text END, ', ' ORDER BY pg_get_userbyid(r)) FROM unnest(p.polroles) AS r),
'USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', 'WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')') AS definition
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE @here@ AND @skip(c.oid)@",
    ),
    (
        "statistics",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(s.stxname)) AS name, pg_get_statisticsobjdef(s.oid) AS definition
FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE @here@ AND @skip(s.stxrelid)@",
    ),
];

/// Rights that somebody else than the owner has.
const PRIVILEGES: &[(&str, &str)] = &[
    (
        "privilege",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(c.relname), ' to ', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) AS name,
string_agg(concat(a.privilege_type, CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END), ', ' ORDER BY a.privilege_type) AS definition
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN aclexplode(c.relacl) AS a
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND a.grantee <> c.relowner AND @here@ AND @skip(c.oid)@ AND @own(pg_class, c.oid)@ GROUP BY 1",
    ),
    (
        "privilege",
        r"
SELECT concat(quote_ident(n.nspname), ' to ', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) AS name,
string_agg(concat(a.privilege_type, CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END), ', ' ORDER BY a.privilege_type) AS definition
FROM pg_namespace n CROSS JOIN aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
WHERE a.grantee <> n.nspowner AND @here@ AND @own(pg_namespace, n.oid)@ GROUP BY 1",
    ),
    (
        "privilege",
        r"
SELECT concat(quote_ident(n.nspname), '.', quote_ident(p.proname), '(', pg_get_function_identity_arguments(p.oid), ') to ',
CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) AS name,
string_agg(concat(a.privilege_type, CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END), ', ' ORDER BY a.privilege_type) AS definition
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace CROSS JOIN aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
WHERE a.grantee <> p.proowner AND @here@ AND @own(pg_proc, p.oid)@ GROUP BY 1",
    ),
];

/// Schemas that are never compared: the standard's own, and ours.
const NOBODYS: &[&str] = &["information_schema", "mainstay"];

/// Reads what is in the database of `settings`, sorted.
///
/// # Errors
/// The server's.
pub(super) async fn read(settings: &Settings, scope: &CatalogScope) -> Result<Vec<CatalogObject>> {
    let session = Session::open(settings).await?;
    session.rows(SETTINGS).await?;
    session.rows(SNAPSHOT).await?;
    let left_out = left_out(&session, &scope.without_tables).await?;
    let scoped = Scoped { schemas: schemas(scope), apart: apart(scope), left_out };
    let kinds = KINDS.iter().chain(if scope.privileges { PRIVILEGES } else { &[] });
    let mut objects = Vec::new();
    for (kind, query) in kinds {
        for row in session.rows(&scoped.query(query)).await? {
            objects.push(CatalogObject {
                kind: (*kind).to_owned(),
                name: session.text(&row, "name")?.to_owned(),
                definition: session.value(&row, "definition")?.unwrap_or_default(),
            });
        }
    }
    objects.sort();
    Ok(objects)
}

fn schemas(scope: &CatalogScope) -> String {
    let named = NOBODYS.iter().copied().chain(scope.without_schemas.iter().map(String::as_str));
    format!("ARRAY[{}]", named.map(literal).collect::<Vec<_>>().join(", "))
}

/// What holds for a schema that no table is left out of: who makes such a table makes its schema, too, and no migration does.
fn apart(scope: &CatalogScope) -> String {
    let named: Vec<String> = scope.without_tables.iter().map(|table| literal(&table.schema)).collect();
    format!("n.nspname <> ALL (ARRAY[{}]::name[])", named.join(", "))
}

/// The numbers of `tables` and of what belongs to them, as an array.
async fn left_out(session: &Session<'_>, tables: &[TableName]) -> Result<String> {
    let pair = |table: &TableName| format!("({}, {})", literal(&table.schema), literal(&table.name));
    let mut numbers = Vec::new();
    if !tables.is_empty() {
        let pairs = tables.iter().map(pair).collect::<Vec<_>>().join(", ");
        for row in session.rows(&LEFT_OUT.replace("@tables@", &pairs)).await? {
            numbers.push(session.number(&row, "oid")?.to_string());
        }
    }
    Ok(format!("ARRAY[{}]::oid[]", numbers.join(", ")))
}

/// What the marks in a query mean.
struct Scoped {
    schemas: String,
    apart: String,
    left_out: String,
}

impl Scoped {
    fn query(&self, query: &str) -> String {
        let here = SCHEMAS.replace("@schemas@", &self.schemas);
        let skip = |column: &str| format!("{column} <> ALL ({})", self.left_out);
        let own = |catalog: &str, number: &str| {
            format!(
                "NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '{catalog}'::regclass AND e.objid = {number} AND e.deptype = 'e')"
            )
        };
        query
            .replace("@here@", &here)
            .replace("@apart@", &self.apart)
            .replace("@skip(c.oid)@", &skip("c.oid"))
            .replace("@skip(s.stxrelid)@", &skip("s.stxrelid"))
            .replace("@own(pg_namespace, n.oid)@", &own("pg_namespace", "n.oid"))
            .replace("@own(pg_type, t.oid)@", &own("pg_type", "t.oid"))
            .replace("@own(pg_type, c.reltype)@", &own("pg_type", "c.reltype"))
            .replace("@own(pg_class, c.oid)@", &own("pg_class", "c.oid"))
            .replace("@own(pg_proc, p.oid)@", &own("pg_proc", "p.oid"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mark_is_left_in_a_query() {
        let scope = CatalogScope {
            without_schemas: vec!["o'dd".to_owned()],
            without_tables: vec![TableName { schema: "k'ept".to_owned(), name: "rows".to_owned() }],
            ..CatalogScope::default()
        };
        let left_out = "ARRAY[1]::oid[]".to_owned();
        let scoped = Scoped { schemas: schemas(&scope), apart: apart(&scope), left_out };
        for (kind, query) in KINDS.iter().chain(PRIVILEGES) {
            let query = scoped.query(query);
            assert!(!query.contains('@'), "{kind}: {query}");
            assert!(!query.contains("n.nspname <> ALL") || query.contains("'o''dd'"), "{kind}");
            assert_eq!(*kind == "schema", query.contains("'k''ept'"), "{kind}");
        }
    }
}
