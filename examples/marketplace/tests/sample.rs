//! What the sample promises, checked on its bytes: determinism, types, sizes, references.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and may tell what it saw"
)]

use bson::raw::{RawBsonRef, RawDocument};
use bson::{Bson, Document};
use jiff::{SignedDuration, Timestamp};
use marketplace::{Collection, ORDER_BYTES, Sample, Scale};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn sample(seed: u64, scale: f64) -> Sample {
    Sample::new(seed, Scale::new(scale).unwrap(), now())
}

fn bytes(sample: &Sample, collection: Collection, indexes: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut buffer = Vec::new();
    indexes.into_iter().for_each(|index| sample.write_document(collection, index, &mut buffer));
    buffer
}

fn documents(sample: &Sample, collection: Collection) -> Vec<Document> {
    let raw = (0..sample.count(collection)).map(|index| sample.document(collection, index));
    raw.map(|raw| Document::try_from(raw.as_ref()).unwrap()).collect()
}

#[test]
fn the_same_seed_makes_the_same_bytes() {
    for collection in Collection::ALL.into_iter().chain([Collection::Orders]) {
        let first = bytes(&sample(7, 0.05), collection, 0..60);
        assert_eq!(first, bytes(&sample(7, 0.05), collection, 0..60), "{}", collection.name());
        // The levels are the same everywhere; everything else differs.
        assert_eq!(
            first == bytes(&sample(8, 0.05), collection, 0..60),
            collection == Collection::Levels,
            "{}",
            collection.name()
        );
    }
}

#[test]
fn any_range_can_be_made_again_alone_and_at_any_scale() {
    for collection in Collection::ALL {
        let whole = bytes(&sample(7, 1.0), collection, 0..12);
        let backwards: Vec<Vec<u8>> =
            (0..12).rev().map(|index| bytes(&sample(7, 0.01), collection, [index])).collect();
        assert_eq!(whole, backwards.into_iter().rev().flatten().collect::<Vec<_>>(), "{}", collection.name());
    }
}

#[test]
fn only_what_expires_depends_on_the_present() {
    let later = Sample::new(7, Scale::ONE, now() + SignedDuration::from_hours(1));
    for collection in Collection::ALL {
        let same = bytes(&sample(7, 1.0), collection, 0..12) == bytes(&later, collection, 0..12);
        assert_eq!(same, collection != Collection::TempVerifications, "{}", collection.name());
    }
}

#[test]
fn the_epoch_moves_the_dates() {
    let moved = sample(7, 1.0).starting_at("1999-01-01T00:00:00Z".parse().unwrap());
    let first = Document::try_from(moved.document(Collection::Users, 0).as_ref()).unwrap();
    assert_eq!(
        first.get_datetime("createdAt").unwrap().try_to_rfc3339_string().unwrap(),
        "1999-01-01T00:00:00Z"
    );
}

#[test]
fn codes_expire_a_month_from_now() {
    for document in documents(&sample(7, 0.1), Collection::TempVerifications) {
        let left = document.get_datetime("expiresAt").unwrap().timestamp_millis() - now().as_millisecond();
        assert!(left >= 30 * 24 * 3_600_000, "{left}");
    }
}

/// What a collection was seen to hold.
#[derive(Default)]
struct Seen {
    types: BTreeSet<u8>,
    subtypes: BTreeSet<u8>,
    doubles: BTreeSet<&'static str>,
}

impl Seen {
    fn document(&mut self, document: &RawDocument) {
        for element in document {
            let (_, value) = element.unwrap();
            self.value(value);
        }
    }

    fn value(&mut self, value: RawBsonRef<'_>) {
        self.types.insert(value.element_type() as u8);
        match value {
            RawBsonRef::Document(document) => self.document(document),
            RawBsonRef::Array(array) => array.into_iter().for_each(|item| self.value(item.unwrap())),
            RawBsonRef::JavaScriptCodeWithScope(code) => self.document(code.scope),
            RawBsonRef::Binary(binary) => {
                self.subtypes.insert(binary.subtype.into());
            }
            RawBsonRef::Double(double) if double.is_nan() => {
                self.doubles.insert("NaN");
            }
            RawBsonRef::Double(double) if double.is_infinite() => {
                self.doubles.insert("infinite");
            }
            RawBsonRef::Double(double) if double == 0.0 && double.is_sign_negative() => {
                self.doubles.insert("-0.0");
            }
            _ => {}
        }
    }
}

#[test]
fn every_bson_type_appears_and_the_deprecated_ones_in_one_place() {
    const ALL_TYPES: [u8; 21] = [
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10, 0x11,
        0x12, 0x13, 0x7f, 0xff,
    ];
    const DEPRECATED: [u8; 4] = [0x06, 0x0c, 0x0e, 0x0f];
    let sample = sample(1, 1.0);
    let mut all = Seen::default();
    for collection in Collection::ALL {
        let mut seen = Seen::default();
        let count = sample.count(collection);
        for index in (0..count).step_by(usize::try_from(count / 500 + 1).unwrap()) {
            seen.document(&sample.document(collection, index));
        }
        let deprecated = DEPRECATED.iter().filter(|kind| seen.types.contains(kind)).count();
        assert_eq!(
            deprecated,
            if collection == Collection::Disputes { 4 } else { 0 },
            "{}",
            collection.name()
        );
        all.types.append(&mut seen.types);
        all.subtypes.append(&mut seen.subtypes);
        all.doubles.append(&mut seen.doubles);
    }
    assert_eq!(all.types, ALL_TYPES.into());
    assert_eq!(all.subtypes, [0, 1, 2, 3, 4, 5, 8, 9, 0x80].into());
    assert_eq!(all.doubles, ["-0.0", "NaN", "infinite"].into());
}

#[test]
fn sizes_are_skewed_up_to_64_kib() {
    let sample = sample(1, 1.0);
    let mut sizes = Vec::new();
    for collection in Collection::ALL {
        let mut buffer = Vec::new();
        for index in 0..sample.count(collection) {
            buffer.clear();
            sample.write_document(collection, index, &mut buffer);
            sizes.push(buffer.len());
        }
    }
    sizes.sort_unstable();
    let at = |percent: usize| sizes[(sizes.len() - 1) * percent / 100];
    eprintln!(
        "bytes: p1 {} p50 {} p90 {} p99 {} all {}",
        at(1),
        at(50),
        at(90),
        at(99),
        sizes.iter().sum::<usize>()
    );
    assert!((60..=300).contains(&at(1)));
    assert!((200..=700).contains(&at(50)));
    assert!(at(99) > 5 * at(50), "the upper end is long");
    let largest = sizes.iter().filter(|&&size| size == 64 * 1024).count();
    assert!((5..=50).contains(&largest), "{largest} documents of 64 KiB");
    assert_eq!(sizes.last(), Some(&(64 * 1024)));
    for (low, high) in [(128, 256), (256, 512), (512, 1024), (1024, 2048), (4096, 8192), (16_384, 32_768)] {
        assert!(sizes.iter().any(|size| (low..high).contains(size)), "no document of {low} to {high} bytes");
    }
}

#[test]
fn orders_have_one_kib_each() {
    let sample = sample(1, 0.0);
    for index in (0..5_000_000_000).step_by(99_999_989) {
        assert_eq!(sample.document(Collection::Orders, index).as_bytes().len() as u64, ORDER_BYTES);
    }
}

#[test]
fn text_is_of_several_scripts() {
    let names: String = documents(&sample(1, 0.02), Collection::Users)
        .iter()
        .map(|user| user.get_str("displayName").unwrap().to_owned())
        .collect();
    for (script, letter) in [
        ("Latin", 'é'),
        ("Cyrillic", 'О'),
        ("Greek", 'Γ'),
        ("Arabic", 'م'),
        ("Hebrew", 'ל'),
        ("Han", '小'),
        ("Hangul", '민'),
        ("joined emoji", '\u{200d}'),
    ] {
        assert!(names.contains(letter), "{script}");
    }
}

/// The documents of a collection by the bytes of their ids, all of which differ.
fn by_id(documents: &[Document]) -> HashMap<String, &Document> {
    let by_id: HashMap<String, &Document> =
        documents.iter().map(|document| (id(document, "_id"), document)).collect();
    assert_eq!(by_id.len(), documents.len(), "ids are unique");
    by_id
}

fn id(document: &Document, field: &str) -> String {
    document.get(field).unwrap_or_else(|| panic!("{field} is missing")).to_string()
}

#[test]
fn references_hold() {
    let sample = sample(5, 0.05);
    let all: BTreeMap<Collection, Vec<Document>> =
        Collection::ALL.into_iter().map(|collection| (collection, documents(&sample, collection))).collect();
    let index: BTreeMap<Collection, HashMap<String, &Document>> =
        all.iter().map(|(collection, documents)| (*collection, by_id(documents))).collect();
    let target = |collection: Collection, document: &Document, field: &str| -> &Document {
        index[&collection]
            .get(&id(document, field))
            .unwrap_or_else(|| panic!("{field} points nowhere: {document}"))
    };

    for (from, field, to) in [
        (Collection::Users, "levelId", Collection::Levels),
        (Collection::Addresses, "userId", Collection::Users),
        (Collection::PurchaseRequests, "buyerId", Collection::Users),
        (Collection::PurchaseRequests, "categoryId", Collection::Categories),
        (Collection::SellerOffers, "requestId", Collection::PurchaseRequests),
        (Collection::SellerOffers, "sellerId", Collection::Users),
        (Collection::Payments, "requestId", Collection::PurchaseRequests),
        (Collection::Chats, "requestId", Collection::PurchaseRequests),
        (Collection::Chats, "offerId", Collection::SellerOffers),
        (Collection::Notifications, "userId", Collection::Users),
        (Collection::TempVerifications, "userId", Collection::Users),
        (Collection::SessionSnapshots, "userId", Collection::Users),
        (Collection::PayoutAccounts, "ownerId", Collection::Users),
    ] {
        all[&from].iter().for_each(|document| {
            target(to, document, field);
        });
    }

    for request in &all[&Collection::PurchaseRequests] {
        assert_eq!(target(Collection::Users, request, "buyerId").get_str("role").unwrap(), "buyer");
    }
    for offer in &all[&Collection::SellerOffers] {
        let request = target(Collection::PurchaseRequests, offer, "requestId");
        assert_eq!(target(Collection::Users, offer, "sellerId").get_str("role").unwrap(), "seller");
        assert!(offer.get_datetime("createdAt").unwrap() > request.get_datetime("createdAt").unwrap());
        let accepted = request.get("acceptedOfferId") == offer.get("_id");
        assert_eq!(offer.get_str("status").unwrap() == "accepted", accepted);
    }
    for price in &all[&Collection::PriceHistory] {
        target(Collection::Categories, price.get_document("meta").unwrap(), "categoryId");
    }

    let accepted =
        all[&Collection::SellerOffers].iter().filter(|offer| offer.get_str("status").unwrap() == "accepted");
    let accepted: HashSet<String> = accepted.map(|offer| id(offer, "_id")).collect();
    let paid: Vec<String> = all[&Collection::Payments].iter().map(|payment| id(payment, "offerId")).collect();
    assert_eq!(paid.len(), accepted.len(), "one payment for each accepted offer");
    assert_eq!(paid.into_iter().collect::<HashSet<_>>(), accepted);

    for payment in &all[&Collection::Payments] {
        let offer = target(Collection::SellerOffers, payment, "offerId");
        let request = target(Collection::PurchaseRequests, payment, "requestId");
        assert_eq!(
            (payment.get("userId"), payment.get("sellerId")),
            (request.get("buyerId"), offer.get("sellerId"))
        );
        let (amount, price) = (payment.get_document("amount").unwrap(), offer.get_document("price").unwrap());
        assert_eq!(
            (amount.get("value"), amount.get("currency")),
            (price.get("amount"), price.get("currency"))
        );
    }

    for dispute in &all[&Collection::Disputes] {
        let payment = target(Collection::Payments, dispute, "paymentId");
        assert_eq!(payment.get_str("status").unwrap(), "disputed");
        assert_eq!(
            target(Collection::PurchaseRequests, payment, "requestId").get_str("status").unwrap(),
            "disputed"
        );
    }
    let disputed = |collection: Collection| {
        all[&collection].iter().filter(|document| document.get_str("status").unwrap() == "disputed").count()
    };
    assert_eq!(disputed(Collection::Payments), all[&Collection::Disputes].len());
    assert_eq!(disputed(Collection::PurchaseRequests), all[&Collection::Disputes].len());

    for chat in &all[&Collection::Chats] {
        let participants = chat.get_array("participants").unwrap();
        for message in chat.get_array("messages").unwrap() {
            assert!(participants.contains(message.as_document().unwrap().get("senderId").unwrap()));
        }
    }
}

#[test]
fn unique_fields_are_unique_and_sparse_ones_missing_here_and_there() {
    let sample = sample(5, 0.2);
    for (collection, field, sparse) in [
        (Collection::Users, "email", false),
        (Collection::Payments, "providerPaymentId", true),
        (Collection::Disputes, "paymentId", false),
        (Collection::SearchTerms, "term", false),
        (Collection::Categories, "slug", false),
    ] {
        let documents = documents(&sample, collection);
        let values: Vec<&Bson> = documents.iter().filter_map(|document| document.get(field)).collect();
        let distinct: HashSet<String> = values.iter().map(|value| value.to_string()).collect();
        assert_eq!(distinct.len(), values.len(), "{}.{field}", collection.name());
        assert_eq!(values.len() < documents.len(), sparse, "{}.{field}", collection.name());
        assert!(!values.contains(&&Bson::Null), "{}.{field}", collection.name());
    }
}
