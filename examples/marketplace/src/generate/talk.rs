//! Conversations and notifications.

use super::timestamps;
use crate::random::{Random, stream};
use crate::sample::{ObjectIdBytes, Sample};
use crate::words;
use crate::writer::Fields;
use std::fmt::Write;

const MINUTE_MS: i64 = 60_000;

/// The largest conversations have exactly this many bytes.
pub(super) const LARGEST_CHAT_BYTES: usize = 64 * 1024;

pub(super) fn chat(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    const MESSAGE_ID: u64 = stream("chats.messages._id");
    let payment = Sample::payment_of_chat(index);
    let offer = sample.offer_of_payment(payment);
    let sides = [sample.user_id(sample.buyer_of(offer.request)), sample.user_id(sample.seller_of(offer))];
    let begun = sample.offer_created_ms(offer);
    let largest = index % 1000 == 7;
    let message_count = if largest { u64::MAX } else { 2 + random.skewed(260, 7) };
    f.object_id("_id", sample.chat_id(index));
    f.string("kind", "purchase");
    f.array("participants", |items| sides.into_iter().for_each(|side| items.object_id(side)));
    f.object_id("requestId", sample.request_id(offer.request));
    f.object_id("offerId", sample.offer_id(offer));
    let mut at = begun;
    let mut written = f.written();
    f.array("messages", |items| {
        let mut message = 0;
        // The room left is for the last message, the fields after the array, and the attachment that fills the rest.
        while message < message_count && written < LARGEST_CHAT_BYTES - 4096 {
            at += random.between(1, 90) * MINUTE_MS;
            let id = sample.object_id(MESSAGE_ID, index << 12 | message, at);
            items.item(|f, key| {
                f.document(key, |f| {
                    write_message(random, f, Message { id, sides, at });
                    written += f.written() + key.len() + 3;
                })
            });
            message += 1;
        }
    });
    f.document("unread", |f| {
        f.int32("buyer", random.int32(0, 3));
        f.int32("seller", random.int32(0, 3));
    });
    f.boolean("archived", random.chance(10));
    f.date("lastMessageAt", at);
    timestamps(f, begun, at);
    if largest {
        const KEY: &str = "attachment";
        // Type, name with its end, length, subtype; and the end of the document.
        let frame = 1 + KEY.len() + 1 + 4 + 1 + 1;
        let mut content = vec![0; LARGEST_CHAT_BYTES - f.written() - frame];
        random.fill(&mut content);
        f.binary(KEY, 0x80, &content);
    }
}

struct Message {
    id: ObjectIdBytes,
    sides: [ObjectIdBytes; 2],
    at: i64,
}

fn write_message(random: &mut Random, f: &mut Fields<'_>, message: Message) {
    let sender = random.below(2) as usize;
    f.object_id("_id", message.id);
    f.object_id("senderId", message.sides[sender]);
    f.text("text", |text| {
        let word_count = 1 + random.skewed(60, 3);
        words::sentence(text, random, word_count);
    });
    f.date("at", message.at);
    f.array("readBy", |items| {
        if random.chance(85) {
            items.object_id(message.sides[1 - sender]);
        }
    });
    if random.chance(6) {
        f.document("image", |f| {
            f.text("url", |text| {
                text.push("https://cdn.example.com/chat/");
                words::hex(text, &random.bytes::<8>());
            });
            f.int32("width", random.int32(100, 4000));
        });
    }
    if random.chance(8) {
        f.document("reactions", |f| f.int32(random.pick(&["👍", "❤️", "😂", "🙏🏽"]), 1));
    }
}

pub(super) fn notification(sample: &Sample, index: u64, random: &mut Random, f: &mut Fields<'_>) {
    const ID: u64 = stream("notifications._id");
    let created = sample.notification_created_ms(index);
    f.object_id("_id", sample.object_id(ID, index, created));
    f.object_id("userId", sample.user_id(sample.addressee_of(index)));
    f.string("type", random.pick(&["offer", "payment", "message", "delivery", "system"]));
    f.text("title", |text| {
        let word_count = 2 + random.below(3);
        words::sentence(text, random, word_count);
    });
    f.text("body", |text| {
        let word_count = 4 + random.skewed(40, 3);
        words::sentence(text, random, word_count);
    });
    f.boolean("read", random.chance(70));
    if random.chance(50) {
        f.document("data", |f| {
            f.text("path", |text| {
                write!(text, "/requests/{}", random.below(100_000)).expect("writing to memory cannot fail")
            });
            f.int32("priority", random.int32(0, 9));
        });
    }
    f.date("createdAt", created);
    f.int32("__v", 0);
}
