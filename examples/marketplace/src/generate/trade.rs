//! Categories, levels, requests, offers and payments.

use super::timestamps;
use crate::random::Random;
use crate::sample::{CATEGORIES, LEVELS, Sample};
use crate::words::{self, CITIES, CURRENCIES, TOPICS};
use crate::writer::Fields;
use std::fmt::Write;

const HOUR_MS: i64 = 3_600_000;

pub(super) fn category(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    let top_count = TOPICS.len() as u64;
    let topic = TOPICS[(index % top_count) as usize];
    f.object_id("_id", sample.category_id(index));
    f.text("slug", |text| write!(text, "category-{index}").expect("writing to memory cannot fail"));
    f.text("name", |text| {
        text.push(topic);
        if index >= top_count {
            write!(text, " › {}", index / top_count).expect("writing to memory cannot fail");
        }
    });
    if index < top_count {
        f.null("parentId");
    } else {
        f.object_id("parentId", sample.category_id(index % top_count));
    }
    f.regex("match", "(camera|دوربین)s?$", "iu");
    f.document("attributes", |f| {
        f.boolean("shippable", random.chance(80));
        f.document("weight", |f| {
            f.double("min", 0.05);
            f.double("max", if random.chance(20) { f64::INFINITY } else { 30.0 });
        });
        f.string("اندازه", random.pick(&["کوچک", "بزرگ"]));
    });
    let created = sample.request_created_ms(0);
    timestamps(f, created, created);
}

pub(super) fn level(sample: &Sample, index: u64, _random: &mut Random, f: &mut Fields<'_>) {
    f.int32("_id", index as i32);
    f.document("name", |f| {
        f.text("en", |text| write!(text, "Level {index}").expect("writing to memory cannot fail"));
        f.text("fa", |text| write!(text, "سطح {index}").expect("writing to memory cannot fail"));
    });
    f.document("points", |f| {
        if index == 0 {
            f.min_key("from")
        } else {
            f.int64("from", 100i64 << index)
        }
        if index + 1 == LEVELS { f.max_key("to") } else { f.int64("to", 100i64 << (index + 1)) }
    });
    f.code("rule", "function (user) { return user.wallet.points >= this.points.from; }");
    f.decimal("feePercent", 350 - 25 * i128::from(index), -2);
    let created = sample.request_created_ms(0);
    timestamps(f, created, created);
}

pub(super) fn request(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    let created = sample.request_created_ms(index);
    let accepted = sample.accepted_offer_of(index);
    let status = match (accepted, sample.offer_count_of(index)) {
        (Some(_), _) if Sample::payment_is_disputed(sample.payment_of(index)) => "disputed",
        (Some(_), _) => random.pick(&["in_progress", "shipped", "completed", "completed", "completed"]),
        (None, 0) => random.pick(&["open", "expired", "cancelled"]),
        (None, _) => "receiving_offers",
    };
    f.object_id("_id", sample.request_id(index));
    f.object_id("buyerId", sample.user_id(sample.buyer_of(index)));
    f.object_id("categoryId", sample.category_id(random.skewed(CATEGORIES, 2)));
    f.string("status", status);
    if let Some(offer) = accepted {
        f.object_id("acceptedOfferId", sample.offer_id(offer));
    }
    f.text("title", |text| {
        let word_count = 3 + random.below(6);
        words::sentence(text, random, word_count);
    });
    f.text("description", |text| {
        let word_count = 8 + random.skewed(600, 8);
        words::sentence(text, random, word_count);
    });
    f.document("budget", |f| {
        let low = i128::from(random.skewed(500_000, 3));
        f.decimal("min", low, -2);
        f.decimal("max", low * 3 / 2 + 100, -2);
        f.string("currency", random.pick(CURRENCIES));
    });
    f.string("urgency", random.pick(&["low", "medium", "high"]));
    f.int32("quantity", 1 + random.skewed(50, 4) as i32);
    f.array("specifications", |items| {
        for _ in 0..random.below(5) {
            items.document(|f| {
                f.string("key", random.pick(&["colour", "size", "brand", "رنگ", "サイズ"]));
                f.text("value", |text| words::sentence(text, random, 2));
                f.boolean("required", random.chance(50));
            });
        }
    });
    f.array("links", |items| {
        for _ in 0..random.skewed(6, 3) {
            items.item(|f, key| {
                f.text(key, |text| {
                    text.push("https://shop.example.net/item?id=");
                    words::hex(text, &random.bytes::<6>());
                });
            });
        }
    });
    f.document("delivery", |f| {
        let (city, country, ..) = random.pick(CITIES);
        f.string("city", city);
        f.string("country", country);
        f.date("before", created + random.between(24, 2400) * HOUR_MS);
    });
    f.document("matching", |f| {
        f.double("score", if random.chance(5) { f64::NAN } else { random.unit() * 100.0 });
        f.int64("views", random.skewed(5_000_000_000, 12) as i64);
    });
    timestamps(f, created, created + random.between(0, 400) * HOUR_MS);
}

pub(super) fn offer(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    let offer = sample.offer(index);
    let created = sample.offer_created_ms(offer);
    let (price, currency) = sample.offer_price(offer);
    let status = match sample.accepted_offer_of(offer.request) {
        Some(accepted) if accepted == offer => "accepted",
        Some(_) => "rejected",
        None => random.pick(&["pending", "pending", "withdrawn"]),
    };
    f.object_id("_id", sample.offer_id(offer));
    f.object_id("requestId", sample.request_id(offer.request));
    f.object_id("sellerId", sample.user_id(sample.seller_of(offer)));
    f.string("status", status);
    f.document("price", |f| {
        f.decimal("amount", price, -2);
        f.string("currency", CURRENCIES[currency]);
    });
    f.int32("deliveryDays", random.int32(1, 45));
    f.text("message", |text| {
        let word_count = 3 + random.skewed(150, 5);
        words::sentence(text, random, word_count);
    });
    f.boolean("negotiable", random.chance(40));
    if random.chance(25) {
        f.document("warranty", |f| {
            f.int32("months", random.int32(1, 36));
            f.boolean("international", random.chance(30));
        });
    }
    timestamps(f, created, created + random.between(0, 72) * HOUR_MS);
}

pub(super) fn payment(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    let offer = sample.offer_of_payment(index);
    let created = sample.payment_created_ms(index);
    let (price, currency) = sample.offer_price(offer);
    let provider_payment_id = sample.provider_payment_id(index);
    let status = if Sample::payment_is_disputed(index) {
        "disputed"
    } else {
        random.pick(&["held", "released", "released", "refunded"])
    };
    f.object_id("_id", sample.payment_id(index));
    f.object_id("userId", sample.user_id(sample.buyer_of(offer.request)));
    f.object_id("sellerId", sample.user_id(sample.seller_of(offer)));
    f.object_id("requestId", sample.request_id(offer.request));
    f.object_id("offerId", sample.offer_id(offer));
    f.string("status", status);
    f.document("amount", |f| {
        f.decimal("value", price, -2);
        f.decimal("fee", price * 35, -5);
        f.string("currency", CURRENCIES[currency]);
    });
    match &provider_payment_id {
        Some(id) => {
            f.string("provider", random.pick(&["stripe", "shkeeper", "zarinpal"]));
            f.string("providerPaymentId", id);
        }
        None => f.string("provider", "wallet"),
    }
    if random.chance(40) {
        f.text("transactionHash", |text| {
            text.push("0x");
            words::hex(text, &random.bytes::<32>());
        });
        f.int64("blockNumber", random.between(18_000_000, 30_000_000_000));
    }
    f.timestamp("ledgerPosition", u32::try_from(created / 1000).unwrap_or(0), random.below(500) as u32);
    f.array("history", |items| {
        for (step, status) in ["created", "authorized", status].into_iter().enumerate() {
            items.document(|f| {
                f.string("status", status);
                f.date("at", created + step as i64 * HOUR_MS);
                f.string("by", random.pick(&["system", "webhook", "admin"]));
            });
        }
    });
    f.document("metadata", |f| {
        f.text("ip", |text| {
            write!(text, "198.51.100.{}", random.below(256)).expect("writing to memory cannot fail")
        });
        f.string("note.internal", random.pick(&["", "checked ✅", "по запросу"]));
    });
    timestamps(f, created, created + 3 * HOUR_MS);
}
