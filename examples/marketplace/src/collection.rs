//! The collections of the sample: what they are called, how they are created, which indexes they carry.
//!
//! The first eight have exactly the indexes of the stack's runbook. The rest exist so that a backup meets every kind of collection,
//! index and option. Index names are the ones drivers derive (`field_1_other_-1`).

use bson::{Document, doc};

/// A collection of the sample; [`Collection::ALL`] has them in the order in which they refer to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Collection {
    /// The tree of goods.
    Categories,
    /// Ranks that users reach by points.
    Levels,
    /// Buyers, sellers and administrators.
    Users,
    /// Delivery addresses of users.
    Addresses,
    /// What buyers ask for.
    PurchaseRequests,
    /// What sellers answer.
    SellerOffers,
    /// One payment for each accepted offer.
    Payments,
    /// Conversations of the two sides of a payment.
    Chats,
    /// Messages to one user.
    Notifications,
    /// One-time codes that expire.
    TempVerifications,
    /// Contested payments. Their evidence holds the deprecated BSON types, their `_id` is of several types.
    Disputes,
    /// A capped collection.
    EventLog,
    /// A time-series collection.
    PriceHistory,
    /// A collection clustered by `_id`.
    SessionSnapshots,
    /// A collection with a collation.
    SearchTerms,
    /// A collection with a validator and change-stream pre-images.
    PayoutAccounts,
    /// The bulk for measurements: documents of one KiB and no secondary index. Not part of the sample proper.
    Orders,
}

/// The view of the sample: its name, the collection under it, and its pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The name of the view.
    pub name: &'static str,
    /// The collection it reads.
    pub on: Collection,
    /// Its aggregation pipeline.
    pub pipeline: Vec<Document>,
}

impl Collection {
    /// Every collection of the sample, [`Collection::Orders`] excepted.
    pub const ALL: [Collection; 16] = [
        Collection::Categories,
        Collection::Levels,
        Collection::Users,
        Collection::Addresses,
        Collection::PurchaseRequests,
        Collection::SellerOffers,
        Collection::Payments,
        Collection::Chats,
        Collection::Notifications,
        Collection::TempVerifications,
        Collection::Disputes,
        Collection::EventLog,
        Collection::PriceHistory,
        Collection::SessionSnapshots,
        Collection::SearchTerms,
        Collection::PayoutAccounts,
    ];

    /// The name on the server.
    pub fn name(self) -> &'static str {
        match self {
            Collection::Categories => "categories",
            Collection::Levels => "levels",
            Collection::Users => "users",
            Collection::Addresses => "addresses",
            Collection::PurchaseRequests => "purchaserequests",
            Collection::SellerOffers => "selleroffers",
            Collection::Payments => "payments",
            Collection::Chats => "chats",
            Collection::Notifications => "notifications",
            Collection::TempVerifications => "tempverifications",
            Collection::Disputes => "disputes",
            Collection::EventLog => "eventlog",
            Collection::PriceHistory => "pricehistory",
            Collection::SessionSnapshots => "sessionsnapshots",
            Collection::SearchTerms => "searchterms",
            Collection::PayoutAccounts => "payoutaccounts",
            Collection::Orders => "orders",
        }
    }

    /// Whether the order of insertion is part of the data, so that it must not be loaded in parallel.
    pub(crate) fn is_ordered(self) -> bool {
        self == Collection::EventLog
    }

    /// Whether an older server may refuse its options, so that a load goes on without it.
    pub(crate) fn is_special(self) -> bool {
        !self.creation_options().is_empty()
    }

    /// The fields of the `create` command beside the name; empty for an ordinary collection.
    ///
    /// Source: MongoDB manual, command `create`. Time-series and clustered collections need 5.0 and 5.3, pre-images 6.0.
    pub fn creation_options(self) -> Document {
        match self {
            Collection::EventLog => doc! { "capped": true, "size": 8 << 20 },
            Collection::PriceHistory => {
                doc! { "timeseries": { "timeField": "at", "metaField": "meta", "granularity": "hours" } }
            }
            Collection::SessionSnapshots => {
                doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true, "name": "session" } }
            }
            Collection::SearchTerms => {
                doc! { "collation": { "locale": "de", "strength": 2, "numericOrdering": true } }
            }
            Collection::PayoutAccounts => doc! {
                "validator": { "$jsonSchema": {
                    "bsonType": "object",
                    "required": ["ownerId", "iban", "currency", "status"],
                    "properties": {
                        "ownerId": { "bsonType": "objectId" },
                        "iban": { "bsonType": "string", "pattern": "^[A-Z]{2}[0-9]{22}$" },
                        "currency": { "enum": ["EUR", "USD", "TRY", "AED"] },
                        "status": { "enum": ["verified", "pending"], "description": "set by the payout provider" },
                    },
                } },
                "validationLevel": "moderate",
                "validationAction": "error",
                "changeStreamPreAndPostImages": { "enabled": true },
            },
            _ => Document::new(),
        }
    }

    /// The secondary indexes as the `createIndexes` command takes them.
    ///
    /// What `listIndexes` answers differs only by what the server adds: `v`, the `_id` index, text and sphere versions, and the
    /// collation that an index inherits from its collection.
    pub fn indexes(self) -> Vec<Document> {
        let plain = |fields: &[&str]| {
            let mut key = Document::new();
            key.extend(fields.iter().map(|field| ((*field).to_owned(), 1.into())));
            index(key, doc! {})
        };
        match self {
            Collection::Users => vec![
                index(doc! { "email": 1 }, doc! { "unique": true }),
                index(doc! { "googleId": 1 }, doc! { "sparse": true }),
                plain(&["role"]),
                plain(&["createdAt"]),
            ],
            Collection::Addresses => vec![plain(&["userId"]), plain(&["userId", "isPrimary"])],
            Collection::PurchaseRequests => vec![
                plain(&["buyerId"]),
                plain(&["status"]),
                plain(&["createdAt"]),
                index(doc! { "title": "text", "description": "text" }, doc! {}),
            ],
            Collection::SellerOffers => vec![plain(&["requestId"]), plain(&["sellerId"]), plain(&["status"])],
            Collection::Payments => vec![
                index(doc! { "providerPaymentId": 1 }, doc! { "unique": true, "sparse": true }),
                plain(&["userId"]),
                plain(&["status"]),
                plain(&["createdAt"]),
                plain(&["transactionHash"]),
            ],
            Collection::Chats => vec![plain(&["participants"]), plain(&["updatedAt"])],
            Collection::Notifications => vec![plain(&["userId", "read"]), plain(&["createdAt"])],
            Collection::TempVerifications => {
                vec![index(doc! { "expiresAt": 1 }, doc! { "expireAfterSeconds": 0 })]
            }
            Collection::Categories => vec![
                index(doc! { "slug": 1 }, doc! { "unique": true }),
                index(doc! { "attributes.$**": 1 }, doc! {}),
            ],
            Collection::Levels => vec![index(doc! { "name.en": 1 }, doc! { "unique": true })],
            Collection::Disputes => vec![
                index(doc! { "paymentId": 1 }, doc! { "unique": true }),
                index(doc! { "openedAt": -1 }, doc! { "hidden": true }),
                index(
                    doc! { "status": 1, "openedAt": -1 },
                    doc! { "partialFilterExpression": { "status": "open" } },
                ),
            ],
            Collection::EventLog => vec![index(doc! { "level": 1, "at": -1 }, doc! {})],
            Collection::PriceHistory => vec![index(doc! { "meta.categoryId": 1, "at": 1 }, doc! {})],
            Collection::SessionSnapshots => vec![index(doc! { "location": "2dsphere" }, doc! {})],
            Collection::SearchTerms => vec![
                index(doc! { "term": 1 }, doc! { "unique": true }),
                index(doc! { "searches": -1 }, doc! { "collation": { "locale": "simple" } }),
            ],
            Collection::PayoutAccounts => vec![index(doc! { "ownerId": "hashed" }, doc! {})],
            Collection::Orders => Vec::new(),
        }
    }
}

impl View {
    /// The views of the sample.
    pub fn all() -> Vec<View> {
        vec![View {
            name: "activesellers",
            on: Collection::Users,
            pipeline: vec![
                doc! { "$match": { "role": "seller", "status": "active" } },
                doc! { "$project": { "displayName": 1, "stats": 1, "levelId": 1, "createdAt": 1 } },
            ],
        }]
    }
}

fn index(key: Document, options: Document) -> Document {
    let name = key.iter().map(|(field, kind)| match kind.as_str() {
        Some(kind) => format!("{field}_{kind}"),
        None => format!("{field}_{kind}"),
    });
    let mut index = doc! { "name": name.collect::<Vec<_>>().join("_"), "key": key };
    index.extend(options);
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(collection: Collection) -> Vec<String> {
        collection
            .indexes()
            .iter()
            .map(|index| index.get_str("name").expect("every index is named").to_owned())
            .collect()
    }

    #[test]
    fn the_runbook_lists_these_indexes() {
        for (collection, expected) in [
            (Collection::Users, vec!["email_1", "googleId_1", "role_1", "createdAt_1"]),
            (Collection::Addresses, vec!["userId_1", "userId_1_isPrimary_1"]),
            (
                Collection::PurchaseRequests,
                vec!["buyerId_1", "status_1", "createdAt_1", "title_text_description_text"],
            ),
            (Collection::SellerOffers, vec!["requestId_1", "sellerId_1", "status_1"]),
            (
                Collection::Payments,
                vec!["providerPaymentId_1", "userId_1", "status_1", "createdAt_1", "transactionHash_1"],
            ),
            (Collection::Chats, vec!["participants_1", "updatedAt_1"]),
            (Collection::Notifications, vec!["userId_1_read_1", "createdAt_1"]),
            (Collection::TempVerifications, vec!["expiresAt_1"]),
        ] {
            assert_eq!(names(collection), expected, "{}", collection.name());
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names = Collection::ALL.map(Collection::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Collection::ALL.len());
    }
}
