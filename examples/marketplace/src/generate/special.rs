//! The collections that exist for their kind, and the bulk for measurements.

use super::people::point;
use crate::random::{Random, stream};
use crate::sample::{CATEGORIES, ORDER_BYTES, PRICES, Sample};
use crate::words::{self, CITIES};
use crate::writer::Fields;
use std::fmt::Write;

const HOUR_MS: i64 = 3_600_000;

/// Prices of twenty measured categories at one time, then of the same at the next.
pub(super) fn price(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    const ID: u64 = stream("pricehistory._id");
    const MEASURED: u64 = 20;
    let category = index % MEASURED;
    let at = sample.grown_ms(index / MEASURED * MEASURED, PRICES);
    f.date("at", at);
    f.document("meta", |f| {
        f.object_id("categoryId", sample.category_id(category * CATEGORIES / MEASURED));
        f.string("source", random.pick(&["offers", "payments"]));
    });
    f.object_id("_id", sample.object_id(ID, index, at));
    f.double("mean", 20.0 + random.unit() * 500.0);
    f.int32("samples", random.int32(1, 900));
}

pub(super) fn session(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    const SESSIONS_PER_USER: u64 = 10;
    let (city, _, _, longitude, latitude) = random.pick(CITIES);
    f.binary("_id", 0x04, &random.uuid());
    f.object_id("userId", sample.user_id(index * SESSIONS_PER_USER));
    f.string("city", city);
    point(random, f, longitude, latitude);
    f.array("pages", |items| {
        for _ in 0..random.skewed(30, 3) {
            items.string(random.pick(&["/", "/requests", "/chats", "/wallet", "/search?q=قهوه"]));
        }
    });
    f.date("takenAt", sample.user_created_ms(index * SESSIONS_PER_USER) + random.between(1, 1000) * HOUR_MS);
}

pub(super) fn search_term(_sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    f.int64("_id", index as i64);
    f.text("term", |text| {
        write!(text, "{} {index}", random.pick(&["größe", "Ärmel", "Straße", "zoom", "Éclair", "item"]))
            .expect("writing to memory cannot fail");
    });
    f.int64("searches", random.skewed(1_000_000, 6) as i64);
}

pub(super) fn payout_account(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    const ID: u64 = stream("payoutaccounts._id");
    // Every fourth user is a seller; every third seller has an account.
    let owner = index * 12;
    let created = sample.user_created_ms(owner) + HOUR_MS;
    f.object_id("_id", sample.object_id(ID, index, created));
    f.object_id("ownerId", sample.user_id(owner));
    f.text("iban", |text| {
        text.push(random.pick(&["DE", "TR", "AE", "FR"]));
        words::pattern(text, random, "9999999999999999999999");
    });
    f.string("currency", random.pick(&["EUR", "USD", "TRY", "AED"]));
    f.string("status", random.pick(&["verified", "pending"]));
    f.date("createdAt", created);
}

/// A document of exactly [`ORDER_BYTES`] bytes, made with few random values so that bulk is quick to make.
pub(super) fn order(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    const ID: u64 = stream("orders._id");
    const KEY: &str = "note";
    let created = sample.user_created_ms(index);
    f.object_id("_id", sample.object_id(ID, index, created));
    f.int64("number", index as i64);
    f.date("createdAt", created);
    f.string("status", random.pick(&["placed", "packed", "shipped", "delivered"]));
    f.decimal("total", i128::from(random.below(10_000_000)), -2);
    f.document("customer", |f| {
        f.binary("id", 0x04, &random.uuid());
        f.string("city", random.pick(CITIES).0);
    });
    f.array("lines", |items| {
        for line in 0..4 {
            items.document(|f| {
                f.int32("line", line);
                f.int32("quantity", 1 + random.below(9) as i32);
                f.double("price", random.below(100_000) as f64 / 100.0);
            });
        }
    });
    f.binary("signature", 0x00, &random.bytes::<64>());
    // Type, name with its end, length, the text's end; and the end of the document.
    let frame = 1 + KEY.len() + 1 + 4 + 1 + 1;
    let room = ORDER_BYTES as usize - f.written() - frame;
    f.text(KEY, |text| words::filler(text, random, room));
}
