//! What the documents of each collection hold.
//!
//! One function per collection, gathered by subject. Each takes its random values from the generator it is given, which depends on the
//! collection and the document's number alone.

mod people;
mod record;
mod special;
mod talk;
mod trade;

use crate::collection::Collection;
use crate::random::{Random, stream};
use crate::sample::Sample;
use crate::writer::{Fields, write_document as write};

/// Appends document `index` of a collection.
pub(crate) fn write_document(sample: &Sample, collection: Collection, index: u64, buffer: &mut Vec<u8>) {
    let mut random = sample.random(stream(collection.name()), index);
    write(buffer, |fields| {
        let fill: fn(&Sample, u64, &mut Random, &mut Fields<'_>) = match collection {
            Collection::Categories => trade::category,
            Collection::Levels => trade::level,
            Collection::Users => people::user,
            Collection::Addresses => people::address,
            Collection::PurchaseRequests => trade::request,
            Collection::SellerOffers => trade::offer,
            Collection::Payments => trade::payment,
            Collection::Chats => talk::chat,
            Collection::Notifications => talk::notification,
            Collection::TempVerifications => people::temp_verification,
            Collection::Disputes => record::dispute,
            Collection::EventLog => record::event,
            Collection::PriceHistory => special::price,
            Collection::SessionSnapshots => special::session,
            Collection::SearchTerms => special::search_term,
            Collection::PayoutAccounts => special::payout_account,
            Collection::Orders => special::order,
        };
        fill(sample, index, &mut random, fields);
    });
}

/// The two dates and the version that Mongoose keeps in every document.
fn timestamps(fields: &mut Fields<'_>, created_ms: i64, updated_ms: i64) {
    fields.date("createdAt", created_ms);
    fields.date("updatedAt", updated_ms);
    fields.int32("__v", 0);
}
