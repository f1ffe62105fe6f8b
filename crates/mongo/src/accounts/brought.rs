//! Documents of users and roles that are brought, as far as a merge needs to understand them. They may come from anywhere: nothing of them is
//! believed that the server does not check, and nothing is walked deeper than it is known to be.

use std::collections::{BTreeMap, BTreeSet};

use bson::raw::{RawArray, RawDocument};
use bson::{RawBsonRef, RawDocumentBuf};
use mainstay_engine::{AccountKind, AccountName, document_frames};
use mainstay_model::{Error, ErrorKind, Result};

use crate::raw;

/// A user or role that is brought.
pub(super) struct Brought {
    pub(super) name: AccountName,
    pub(super) document: RawDocumentBuf,
}

impl Brought {
    /// The `_id` of its document.
    pub(super) fn id(&self) -> String {
        format!("{}.{}", self.name.database, self.name.name)
    }
}

/// The documents of `kind` that belong to `database`, or all.
///
/// # Errors
/// `Corrupt` when one is not framed, its `_id` is not its database and name, or two have one name.
pub(super) fn brought(kind: AccountKind, documents: &[u8], database: Option<&str>) -> Result<Vec<Brought>> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for frame in document_frames(documents) {
        let frame = frame.map_err(|_| damaged(kind))?;
        let document = RawDocumentBuf::from_bytes(frame.to_vec()).map_err(|_| damaged(kind))?;
        let name = name_of(kind, &document).ok_or_else(|| damaged(kind))?;
        if database.is_some_and(|database| database != name.database) {
            continue;
        }
        if !seen.insert(name.clone()) {
            return Err(damaged(kind));
        }
        all.push(Brought { name, document });
    }
    Ok(all)
}

fn name_of(kind: AccountKind, document: &RawDocument) -> Option<AccountName> {
    let text = |field| raw::find(document.as_bytes(), field).ok().flatten()?.text();
    let field = match kind {
        AccountKind::User => "user",
        AccountKind::Role => "role",
    };
    let (database, name) = (text("db")?, text(field)?);
    let expected = format!("{database}.{name}");
    (text("_id")? == expected).then(|| AccountName {
        kind,
        database: database.to_owned(),
        name: name.to_owned(),
    })
}

/// What is brought is no users or roles.
pub(super) fn damaged(kind: AccountKind) -> Error {
    let what = match kind {
        AccountKind::User => "users are not documents as a server keeps them, each once",
        AccountKind::Role => "roles are not documents as a server keeps them, each once",
    };
    Error::new(ErrorKind::Corrupt, what)
        .with_state("no user was changed")
        .with_hint("leave `--users-and-roles` out")
}

/// What a role lets its holders do, whatever the order it is written in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RoleForm {
    /// Actions by resource.
    privileges: BTreeMap<Fields, BTreeSet<String>>,
    /// The roles it inherits.
    roles: BTreeSet<Fields>,
    /// From where it may be used.
    restrictions: BTreeSet<Fields>,
}

/// The fields of a small document, each with its bytes, by name.
type Fields = BTreeMap<Vec<u8>, (u8, Vec<u8>)>;

impl RoleForm {
    /// The form of a document of `admin.system.roles`, or of what `rolesInfo` answers.
    ///
    /// # Errors
    /// `Corrupt` when it is neither.
    pub(super) fn of(role: &RawDocument) -> Result<Self> {
        let mut form = Self::default();
        for privilege in items(role, "privileges")? {
            let privilege = document(privilege)?;
            let resource = privilege.get_document("resource").map_err(|_| damaged(AccountKind::Role))?;
            let actions = form.privileges.entry(fields(resource)?).or_default();
            for action in items(privilege, "actions")? {
                actions.insert(action.as_str().ok_or_else(|| damaged(AccountKind::Role))?.to_owned());
            }
        }
        for inherited in items(role, "roles")? {
            form.roles.insert(fields(document(inherited)?)?);
        }
        for restriction in items(role, "authenticationRestrictions")? {
            match restriction {
                // The answer of `rolesInfo` has one list more around them.
                RawBsonRef::Array(several) => {
                    for restriction in listed(several)? {
                        form.restrictions.insert(fields(document(restriction)?)?);
                    }
                }
                one => drop(form.restrictions.insert(fields(document(one)?)?)),
            }
        }
        Ok(form)
    }
}

/// What the list `field` holds; nothing where there is none.
fn items<'a>(of: &'a RawDocument, field: &str) -> Result<Vec<RawBsonRef<'a>>> {
    match of.get(field) {
        Ok(None) => Ok(Vec::new()),
        Ok(Some(RawBsonRef::Array(list))) => listed(list),
        _ => Err(damaged(AccountKind::Role)),
    }
}

fn listed(list: &RawArray) -> Result<Vec<RawBsonRef<'_>>> {
    list.into_iter().collect::<Result<_, _>>().map_err(|_| damaged(AccountKind::Role))
}

fn document(value: RawBsonRef<'_>) -> Result<&RawDocument> {
    value.as_document().ok_or_else(|| damaged(AccountKind::Role))
}

fn fields(document: &RawDocument) -> Result<Fields> {
    raw::elements(document.as_bytes())
        .map(|element| element.map(|it| (it.key.to_vec(), (it.kind, it.value.to_vec()))))
        .collect::<Result<_, _>>()
        .map_err(|_| damaged(AccountKind::Role))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::{Document, doc};

    use super::*;

    fn bytes(documents: &[Document]) -> Vec<u8> {
        documents.iter().flat_map(|document| document.to_vec().unwrap()).collect()
    }

    fn form(role: &Document) -> RoleForm {
        RoleForm::of(&RawDocumentBuf::try_from(role).unwrap()).unwrap()
    }

    #[test]
    fn a_document_is_who_its_id_says() {
        let user = |id: &str, user: &str, db: &str| doc! { "_id": id, "user": user, "db": db };
        let of = |documents: &[Document], database| brought(AccountKind::User, &bytes(documents), database);
        let good = [user("shop.anna", "anna", "shop"), user("a.b.c", "b.c", "a")];
        let names = |found: Vec<Brought>| found.iter().map(|it| it.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(of(&good, None).unwrap()), ["user shop.anna", "user a.b.c"]);
        assert_eq!(names(of(&good, Some("a")).unwrap()), ["user a.b.c"]);
        for bad in [
            vec![user("admin.root", "anna", "shop")],
            vec![user("shop.anna", "anna", "shop"), user("shop.anna", "anna", "shop")],
            vec![doc! { "_id": 1, "user": "anna", "db": "shop" }],
            vec![doc! { "_id": "shop.anna", "role": "anna", "db": "shop" }],
            vec![doc! {}],
        ] {
            assert_eq!(of(&bad, None).err().unwrap().kind(), ErrorKind::Corrupt, "{bad:?}");
        }
        let cut = &bytes(&good)[..20];
        assert!(brought(AccountKind::User, cut, None).is_err());
    }

    #[test]
    fn roles_are_equal_whatever_the_order() {
        let find_first = doc! { "privileges": [
            { "resource": { "db": "shop", "collection": "" }, "actions": ["find", "insert"] },
            { "resource": { "cluster": true }, "actions": ["serverStatus"] },
        ], "roles": [{ "role": "a", "db": "shop" }, { "role": "b", "db": "shop" }], "authenticationRestrictions": [{ "clientSource": ["::1"] }] };
        let answered = doc! { "roles": [{ "db": "shop", "role": "b" }, { "role": "a", "db": "shop" }], "privileges": [
            { "resource": { "cluster": true }, "actions": ["serverStatus"] },
            { "resource": { "collection": "", "db": "shop" }, "actions": ["insert"] },
            { "resource": { "db": "shop", "collection": "" }, "actions": ["find"] },
        ], "authenticationRestrictions": [[{ "clientSource": ["::1"] }]], "inheritedPrivileges": [] };
        assert_eq!(form(&find_first), form(&answered));
        let mut less = answered.clone();
        less.remove("authenticationRestrictions");
        assert_ne!(form(&less), form(&answered));
        assert_ne!(form(&doc! { "privileges": [], "roles": [] }), form(&less));
        for bad in
            [doc! { "privileges": 1 }, doc! { "roles": ["a"] }, doc! { "privileges": [{ "actions": [] }] }]
        {
            assert!(RoleForm::of(&RawDocumentBuf::try_from(&bad).unwrap()).is_err(), "{bad}");
        }
    }
}
