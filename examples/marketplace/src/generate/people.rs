//! Users, their addresses, and their one-time codes.

use super::timestamps;
use crate::random::{Random, stream};
use crate::sample::{LEVELS, Sample};
use crate::words::{self, CITIES, CURRENCIES, FIRST_NAMES, LAST_NAMES, LOCALES, NAME_MARKS, STREETS, TOPICS};
use crate::writer::Fields;
use std::fmt::Write;

const DAY_MS: i64 = 24 * 3_600_000;

pub(super) fn user(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    let seller = Sample::user_is_seller(index);
    let created = sample.user_created_ms(index);
    let (first, last) = (random.pick(FIRST_NAMES), random.pick(LAST_NAMES));
    f.object_id("_id", sample.user_id(index));
    f.text("email", |text| {
        write!(
            text,
            "{}{index}@example.{}",
            random.pick(&["buyer.", "shop-", "me+", "ünï.", "x_"]),
            random.pick(&["com", "org", "net"])
        )
        .expect("writing to memory cannot fail");
    });
    f.string("firstName", first);
    f.string("lastName", last);
    f.text("displayName", |text| {
        text.push(first);
        text.push(" ");
        text.push(last);
        if random.chance(15) {
            text.push(" ");
            text.push(random.pick(NAME_MARKS));
        }
    });
    let role = if seller {
        "seller"
    } else if Sample::user_is_administrator(index) {
        "admin"
    } else {
        "buyer"
    };
    f.string("role", role);
    f.string(
        "status",
        if random.chance(90) { "active" } else { random.pick(&["suspended", "deleted", "pending"]) },
    );
    if random.chance(30) {
        f.text("googleId", |text| {
            write!(text, "1{:020}", random.bits()).expect("writing to memory cannot fail")
        });
    }
    f.text("passwordHash", |text| {
        text.push("$2b$12$");
        words::hex(text, &random.bytes::<26>());
    });
    f.boolean("emailVerified", random.chance(80));
    if random.chance(70) {
        f.text("phone", |text| words::pattern(text, random, "+99 999 9999999"));
    } else {
        f.null("phone");
    }
    f.string("locale", random.pick(LOCALES));
    f.date("birthDate", random.between(-20_000, 13_000) * DAY_MS);
    avatar(random, f);
    f.document("preferences", |f| {
        f.string("theme", random.pick(&["light", "dark", "system"]));
        f.document("notifications", |f| {
            for channel in ["email", "push", "sms"] {
                f.boolean(channel, random.chance(60));
            }
        });
        f.array("savedSearches", |items| {
            for _ in 0..random.skewed(4, 2) {
                items.document(|f| {
                    f.string("name", random.pick(TOPICS));
                    f.regex(
                        "pattern",
                        random.pick(&["^cam(era)?s?$", "قهوه|چای", "\\bvintage\\b", "^(?!new).+"]),
                        random.pick(&["", "i", "im"]),
                    );
                });
            }
        });
    });
    f.document("wallet", |f| {
        f.decimal("balance", i128::from(random.skewed(50_000_000, 4)), -2);
        f.string("currency", random.pick(CURRENCIES));
        f.int64("points", random.skewed(9_007_199_254_740_993, 6) as i64);
    });
    f.document("stats", |f| {
        let rated = random.chance(60);
        f.double("ratingAverage", if rated { 1.0 + random.unit() * 4.0 } else { f64::NAN });
        f.double("responseBias", if rated { random.unit() - 0.5 } else { -0.0 });
        f.int32("completed", random.int32(0, 400));
    });
    f.int32("levelId", random.skewed(LEVELS, 2) as i32);
    f.binary("deviceId", 0x04, &random.uuid());
    if random.chance(85) {
        f.date("lastLoginAt", created + random.between(0, 300) * DAY_MS);
    } else {
        f.null("lastLoginAt");
    }
    f.array("tags", |items| {
        for _ in 0..random.below(4) {
            items.string(random.pick(TOPICS));
        }
    });
    f.text("bio", |text| {
        let word_count = random.skewed(400, 5);
        words::sentence(text, random, word_count);
    });
    timestamps(f, created, created + random.between(0, 200) * DAY_MS);
}

fn avatar(random: &mut Random, f: &mut Fields<'_>) {
    f.document("avatar", |f| {
        f.text("url", |text| {
            text.push("https://cdn.example.com/avatars/");
            words::hex(text, &random.bytes::<8>());
            text.push(".webp");
        });
        let mut thumbnail = [0; 96];
        let size = 16 + random.below(80) as usize;
        random.fill(&mut thumbnail[..size]);
        f.binary("thumbnail", 0x00, &thumbnail[..size]);
        f.binary("md5", 0x05, &random.bytes::<16>());
    });
}

pub(super) fn address(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    const ID: u64 = stream("addresses._id");
    let (owner, primary) = sample.owner_of_address(index);
    let created = sample.user_created_ms(owner) + random.between(60_000, DAY_MS);
    let (city, country, postal, longitude, latitude) = random.pick(CITIES);
    f.object_id("_id", sample.object_id(ID, index, created));
    f.object_id("userId", sample.user_id(owner));
    f.boolean("isPrimary", primary);
    f.string("label", if primary { "home 🏠" } else { random.pick(&["work", "محل کار", "parents"]) });
    f.text("recipient", |text| {
        write!(text, "{} {}", random.pick(FIRST_NAMES), random.pick(LAST_NAMES))
            .expect("writing to memory cannot fail");
    });
    f.text("street", |text| {
        write!(text, "{} {}", random.pick(STREETS), 1 + random.below(250))
            .expect("writing to memory cannot fail");
    });
    f.string("city", city);
    f.string("country", country);
    if postal.is_empty() {
        f.null("postalCode");
    } else {
        f.text("postalCode", |text| words::pattern(text, random, postal));
    }
    point(random, f, longitude, latitude);
    timestamps(f, created, created);
}

/// A GeoJSON point near a place.
pub(super) fn point(random: &mut Random, f: &mut Fields<'_>, longitude: f64, latitude: f64) {
    f.document("location", |f| {
        f.string("type", "Point");
        f.array("coordinates", |items| {
            for center in [longitude, latitude] {
                let value = center + (random.unit() - 0.5) / 5.0;
                items.item(|f, key| f.double(key, value));
            }
        });
    });
}

pub(super) fn temp_verification(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    const ID: u64 = stream("tempverifications._id");
    const TEMP_VERIFICATIONS_PER_USER: u64 = 5;
    let expires = sample.now_ms() + 30 * DAY_MS + index as i64 % DAY_MS;
    f.object_id("_id", sample.object_id(ID, index, expires - 31 * DAY_MS));
    f.object_id("userId", sample.user_id(index * TEMP_VERIFICATIONS_PER_USER));
    f.string("purpose", random.pick(&["email", "passkey", "password-reset"]));
    f.text("codeHash", |text| words::hex(text, &random.bytes::<20>()));
    f.int32("attempts", random.int32(0, 3));
    if random.chance(20) {
        f.binary("challenge", 0x00, &random.bytes::<32>());
    }
    f.date("expiresAt", expires);
}
