//! Disputes with their evidence, and the event log.

use super::timestamps;
use crate::random::{Random, stream};
use crate::sample::Sample;
use crate::words;
use crate::writer::{Fields, Items};
use std::fmt::Write;

const DAY_MS: i64 = 24 * 3_600_000;

pub(super) fn dispute(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    let payment = Sample::payment_of_dispute(index);
    let offer = sample.offer_of_payment(payment);
    let opened = sample.payment_created_ms(payment) + random.between(1, 20) * DAY_MS;
    dispute_id(sample, index, opened, random, f);
    f.object_id("paymentId", sample.payment_id(payment));
    f.object_id("openedBy", sample.user_id(sample.buyer_of(offer.request)));
    f.object_id("against", sample.user_id(sample.seller_of(offer)));
    f.string("status", random.pick(&["open", "resolved", "resolved", "escalated"]));
    f.string("reason", random.pick(&["not received", "damaged", "不符", "کالای تقلبی"]));
    f.text("statement", |text| {
        let word_count = 10 + random.skewed(200, 3);
        words::sentence(text, random, word_count);
    });
    f.array("evidence", |items| {
        evidence(sample, payment, random, items);
        if index.is_multiple_of(3) {
            legacy_evidence(sample, payment, items);
        }
    });
    f.document("notes", |f| {
        f.string("price.agreed", "dots in a field name");
        f.string("$internal", "a dollar sign in front");
        f.string("", "an empty name");
        f.string("ключ 🔑", "letters of several scripts");
    });
    f.date("openedAt", opened);
    timestamps(f, opened, opened + 2 * DAY_MS);
}

/// Most ids are object ids; disputes taken over from elsewhere kept the ids they had.
fn dispute_id(sample: &Sample, index: u64, opened: i64, random: &mut Random, f: &mut Fields<'_>) {
    const ID: u64 = stream("disputes._id");
    match index % 20 {
        3 => f.text("_id", |text| write!(text, "case-№{index}").expect("writing to memory cannot fail")),
        7 => f.int64("_id", (index as i64) << 33),
        11 => f.binary("_id", 0x04, &random.uuid()),
        13 => f.document("_id", |f| {
            f.string("office", "تهران");
            f.int32("number", index as i32);
        }),
        17 => f.date("_id", opened + index as i64),
        _ => f.object_id("_id", sample.object_id(ID, index, opened)),
    }
}

/// Values of the types in use today, each binary subtype among them.
fn evidence(sample: &Sample, payment: u64, random: &mut Random, items: &mut Items<'_>) {
    items.document(|f| {
        f.string("kind", "photo");
        f.binary("plain", 0x00, &random.bytes::<24>());
        f.binary("function", 0x01, &random.bytes::<4>());
        f.binary("uuid", 0x04, &random.uuid());
        f.binary("md5", 0x05, &random.bytes::<16>());
        f.binary("sensitive", 0x08, &random.bytes::<8>());
        // A packed vector of signed bytes: element type, padding, values.
        f.binary("embedding", 0x09, &[0x03, 0x00, 0x7f, 0x80, 0x01]);
        f.binary("application", 0x80, &random.bytes::<3>());
        f.binary("empty", 0x00, &[]);
    });
    items.document(|f| {
        f.string("kind", "measure");
        f.array("doubles", |items| {
            let unusual =
                [f64::NAN, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE / 4.0, f64::MAX];
            unusual.into_iter().for_each(|value| items.item(|f, key| f.double(key, value)));
        });
        f.array("decimals", |items| {
            items.item(|f, key| f.decimal(key, 10i128.pow(34) - 1, 6111));
            items.item(|f, key| f.decimal(key, -1, -6176));
            items.item(|f, key| f.decimal(key, 0, -3));
            items.item(|f, key| f.decimal_bits(key, 0x78 << 120));
            items.item(|f, key| f.decimal_bits(key, 0xf8 << 120));
            items.item(|f, key| f.decimal_bits(key, 0x7c << 120));
        });
        f.array("integers", |items| {
            items.item(|f, key| f.int32(key, i32::MIN));
            items.item(|f, key| f.int64(key, i64::MAX));
            items.item(|f, key| f.int64(key, 0));
        });
        f.array("dates", |items| {
            // Outside what most calendars show, and before 1970.
            [i64::MIN, -1, 0, 253_402_300_800_000]
                .into_iter()
                .for_each(|at| items.item(|f, key| f.date(key, at)));
        });
        f.timestamp("at", 1_700_000_000, 1);
        f.min_key("lowest");
        f.max_key("highest");
        f.code("check", "function () { return true; }");
        f.object_id("payment", sample.payment_id(payment));
        f.null("nothing");
    });
}

/// Values of the deprecated types, as drivers of ten years ago left them.
fn legacy_evidence(sample: &Sample, payment: u64, items: &mut Items<'_>) {
    items.document(|f| {
        f.string("kind", "imported");
        f.undefined("checkedBy");
        f.db_pointer("payment", "marketplace.payments", sample.payment_id(payment));
        f.symbol("state", "vérifié");
        f.code_with_scope("rule", "return amount > limit;", |f| {
            f.int32("limit", 1000);
            f.document("nested", |f| f.string("unit", "€"));
        });
        f.binary("old", 0x02, &[1, 2, 3, 4, 5]);
        f.binary("oldUuid", 0x03, &[7; 16]);
    });
}

pub(super) fn event(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    f.int64("_id", index as i64);
    f.date("at", sample.notification_created_ms(index * 13));
    f.string("level", random.pick(&["info", "info", "info", "warn", "error"]));
    f.text("message", |text| {
        let word_count = 4 + random.below(12);
        words::sentence(text, random, word_count);
    });
    f.document("context", |f| {
        f.int32("pid", random.int32(1, 65_535));
        f.double("durationMs", random.unit() * 900.0);
    });
}
