//! The sample: how many documents there are, what each refers to, and the bytes of any of them.
//!
//! Document `i` of a collection depends on the seed, the two reference times, the collection and `i`; on no other document, on no
//! clock, and not on the scale: a smaller sample is a prefix of a larger one, collection by collection. What a document refers to is
//! computed from its number, so references hold without remembering anything:
//!
//! * Requests come in rounds of sixteen, in which the number of offers and the accepted offer of each are fixed. Hence offer `o`
//!   belongs to one computable request, and payment `p` to one computable accepted offer.
//! * A document refers only to users that were created before it, when all collections grow at their ordinary proportions.
//!
//! Dates grow with the document's number towards five and a half years after the epoch and never pass it, at any scale.

use crate::collection::Collection;
use crate::generate;
use crate::random::{Random, mix, stream};
use crate::scale::Scale;
use bson::raw::RawDocumentBuf;
use jiff::Timestamp;

/// The bytes of an `ObjectId`.
pub(crate) type ObjectIdBytes = [u8; 12];

const HOUR_MS: i64 = 3_600_000;
const SPAN_MS: i64 = 2_000 * 24 * HOUR_MS;

const USERS: u64 = 20_000;
const REQUESTS: u64 = 28_000;
const NOTIFICATIONS: u64 = 66_000;
const TEMP_VERIFICATIONS: u64 = 4_000;
const EVENTS: u64 = 5_000;
pub(crate) const PRICES: u64 = 10_000;
const SESSIONS: u64 = 2_000;
const SEARCH_TERMS: u64 = 1_500;
const PAYOUT_ACCOUNTS: u64 = 1_500;
/// The capped collection holds this many at any larger scale, so that nothing in it is overwritten.
const EVENTS_MAX: u64 = 5_000;
pub(crate) const CATEGORIES: u64 = 60;
pub(crate) const LEVELS: u64 = 12;
/// The fewest users of a sample that is not empty; every reference may rely on them.
const USERS_MIN: u64 = 40;
/// One payment in this many is contested.
const DISPUTE_EVERY: u64 = 12;
const DISPUTE_AT: u64 = 5;

/// Bytes of a document of [`Collection::Orders`], exactly.
pub const ORDER_BYTES: u64 = 1024;

/// Requests of one round: their numbers of offers, and which offer of each was accepted.
const ROUND: [(u8, Option<u8>); 16] = [
    (2, Some(0)),
    (0, None),
    (1, None),
    (3, Some(1)),
    (5, Some(3)),
    (1, None),
    (2, Some(1)),
    (0, None),
    (4, Some(2)),
    (2, Some(0)),
    (1, None),
    (7, Some(5)),
    (0, None),
    (2, Some(1)),
    (3, None),
    (1, Some(0)),
];
const OFFERS_BEFORE: [u64; 17] = before(true);
const ACCEPTED_BEFORE: [u64; 17] = before(false);

/// Sums over the first requests of a round: of offers, or of accepted offers.
const fn before(offers: bool) -> [u64; 17] {
    let mut sums = [0; 17];
    let mut at = 0;
    while at < 16 {
        let (count, accepted) = ROUND[at];
        sums[at + 1] = sums[at] + if offers { count as u64 } else { accepted.is_some() as u64 };
        at += 1;
    }
    sums
}

fn total_before(sums: &[u64; 17], request: u64) -> u64 {
    request / 16 * sums[16] + sums[(request % 16) as usize]
}

/// The request that holds the `index`th unit, and the unit's place in it.
fn holder(sums: &[u64; 17], index: u64) -> (u64, u64) {
    let (round, rest) = (index / sums[16], index % sums[16]);
    let position = sums.partition_point(|&sum| sum <= rest) - 1;
    (round * 16 + position as u64, rest - sums[position])
}

/// A sample of the marketplace's data.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    seed: u64,
    scale: Scale,
    epoch_ms: i64,
    now_ms: i64,
}

/// An offer: its number, its request, and its place among that request's offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) index: u64,
    pub(crate) request: u64,
    pub(crate) slot: u64,
}

impl Sample {
    /// The sample of a seed and a scale. Its dates begin in 2021; what must not expire soon expires 30 days after `now`.
    pub fn new(seed: u64, scale: Scale, now: Timestamp) -> Sample {
        const EPOCH_2021_MS: i64 = 1_609_459_200_000;
        Sample { seed, scale, epoch_ms: EPOCH_2021_MS, now_ms: now.as_millisecond() }
    }

    /// The same sample with dates that begin at `epoch`.
    #[must_use]
    pub fn starting_at(mut self, epoch: Timestamp) -> Sample {
        self.epoch_ms = epoch.as_millisecond();
        self
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The scale.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// The number of documents of a collection; zero for [`Collection::Orders`], which the caller sizes.
    pub fn count(&self, collection: Collection) -> u64 {
        let scaled = |base, minimum| self.scale.count(base, minimum);
        let requests = scaled(REQUESTS, 16);
        let payments = total_before(&ACCEPTED_BEFORE, requests);
        match collection {
            Collection::Categories => {
                if self.scale.is_zero() {
                    0
                } else {
                    CATEGORIES
                }
            }
            Collection::Levels => {
                if self.scale.is_zero() {
                    0
                } else {
                    LEVELS
                }
            }
            Collection::Users => scaled(USERS, USERS_MIN),
            Collection::Addresses => scaled(USERS, USERS_MIN) * 3 / 2,
            Collection::PurchaseRequests => requests,
            Collection::SellerOffers => total_before(&OFFERS_BEFORE, requests),
            Collection::Payments => payments,
            Collection::Chats => payments * 2 / 3,
            Collection::Notifications => scaled(NOTIFICATIONS, 1),
            Collection::TempVerifications => scaled(TEMP_VERIFICATIONS, 1),
            Collection::Disputes => (payments + DISPUTE_EVERY - 1 - DISPUTE_AT) / DISPUTE_EVERY,
            Collection::EventLog => scaled(EVENTS, 1).min(EVENTS_MAX),
            Collection::PriceHistory => scaled(PRICES, 1),
            Collection::SessionSnapshots => scaled(SESSIONS, 1),
            Collection::SearchTerms => scaled(SEARCH_TERMS, 1),
            Collection::PayoutAccounts => scaled(PAYOUT_ACCOUNTS, 1),
            Collection::Orders => 0,
        }
    }

    /// The number of documents of all collections together.
    pub fn document_count(&self) -> u64 {
        Collection::ALL.iter().map(|&collection| self.count(collection)).sum()
    }

    /// Appends the BSON bytes of document `index` of a collection.
    pub fn write_document(&self, collection: Collection, index: u64, buffer: &mut Vec<u8>) {
        generate::write_document(self, collection, index, buffer);
    }

    /// Document `index` of a collection.
    pub fn document(&self, collection: Collection, index: u64) -> RawDocumentBuf {
        let mut bytes = Vec::new();
        self.write_document(collection, index, &mut bytes);
        RawDocumentBuf::from_bytes(bytes).expect("the writer frames its documents")
    }

    /// About how many bytes the first `count` documents of a collection have, judged by up to 64 of them.
    pub fn estimated_bytes(&self, collection: Collection, count: u64) -> u64 {
        let probes = count.min(64);
        let mut buffer = Vec::new();
        for probe in 0..probes {
            self.write_document(collection, probe * count / probes, &mut buffer);
        }
        (buffer.len() as u64 * count).checked_div(probes).unwrap_or(0)
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.now_ms
    }

    pub(crate) fn random(&self, stream: u64, index: u64) -> Random {
        Random::new(self.seed, stream, index)
    }

    pub(crate) fn object_id(&self, stream: u64, index: u64, created_ms: i64) -> ObjectIdBytes {
        let seconds = u32::try_from(created_ms / 1000).unwrap_or(0);
        let process = mix(self.seed ^ stream).to_be_bytes();
        let counter = index.to_be_bytes();
        let mut id = [0; 12];
        id[..4].copy_from_slice(&seconds.to_be_bytes());
        id[4..9].copy_from_slice(&process[..5]);
        id[9..].copy_from_slice(&counter[5..]);
        id
    }

    /// When the `index`th document came to be, in a collection that has `base` at scale 1: half of the span has then passed.
    pub(crate) fn grown_ms(&self, index: u64, base: u64) -> i64 {
        let passed = i128::from(SPAN_MS) * i128::from(index) / (i128::from(index) + i128::from(base));
        self.epoch_ms + i64::try_from(passed).expect("less than the span has passed")
    }

    // References.

    pub(crate) fn user_created_ms(&self, user: u64) -> i64 {
        self.grown_ms(user, USERS)
    }

    pub(crate) fn user_id(&self, user: u64) -> ObjectIdBytes {
        const STREAM: u64 = stream("users._id");
        self.object_id(STREAM, user, self.user_created_ms(user))
    }

    /// How many users are sure to exist when the `index`th document of a collection with `base` at scale 1 comes to be.
    fn known_users(&self, index: u64, base: u64) -> u64 {
        (index * USERS / base).max(USERS_MIN) / 4 * 4
    }

    /// Any user; the first are met more often.
    pub(crate) fn any_user(&self, random: &mut Random, index: u64, base: u64) -> u64 {
        random.skewed(self.known_users(index, base), 2)
    }

    pub(crate) fn user_is_seller(user: u64) -> bool {
        user.is_multiple_of(4)
    }

    pub(crate) fn user_is_administrator(user: u64) -> bool {
        user % 1000 == 3
    }

    pub(crate) fn category_id(&self, category: u64) -> ObjectIdBytes {
        const STREAM: u64 = stream("categories._id");
        self.object_id(STREAM, category, self.epoch_ms)
    }

    pub(crate) fn request_created_ms(&self, request: u64) -> i64 {
        self.grown_ms(request, REQUESTS)
    }

    pub(crate) fn request_id(&self, request: u64) -> ObjectIdBytes {
        const STREAM: u64 = stream("purchaserequests._id");
        self.object_id(STREAM, request, self.request_created_ms(request))
    }

    /// The user who made a request: never a seller, never an administrator.
    pub(crate) fn buyer_of(&self, request: u64) -> u64 {
        const STREAM: u64 = stream("purchaserequests.buyerId");
        let mut random = self.random(STREAM, request);
        let picked = self.any_user(&mut random, request, REQUESTS) / 4 * 4 + 1 + random.below(3);
        if Sample::user_is_administrator(picked) { picked - 1 } else { picked }
    }

    /// The user who made an offer: a seller, another one for each offer of a request.
    pub(crate) fn seller_of(&self, offer: Offer) -> u64 {
        const STREAM: u64 = stream("selleroffers.sellerId");
        let mut random = self.random(STREAM, offer.request);
        let first = self.any_user(&mut random, offer.request, REQUESTS) / 4;
        (first + offer.slot) % (self.known_users(offer.request, REQUESTS) / 4) * 4
    }

    pub(crate) fn offer_count_of(&self, request: u64) -> u64 {
        u64::from(ROUND[(request % 16) as usize].0)
    }

    pub(crate) fn offer(&self, index: u64) -> Offer {
        let (request, slot) = holder(&OFFERS_BEFORE, index);
        Offer { index, request, slot }
    }

    pub(crate) fn accepted_offer_of(&self, request: u64) -> Option<Offer> {
        let slot = u64::from(ROUND[(request % 16) as usize].1?);
        Some(Offer { index: total_before(&OFFERS_BEFORE, request) + slot, request, slot })
    }

    pub(crate) fn offer_created_ms(&self, offer: Offer) -> i64 {
        const STREAM: u64 = stream("selleroffers.createdAt");
        let jitter = self.random(STREAM, offer.index).between(0, 2 * HOUR_MS);
        self.request_created_ms(offer.request) + HOUR_MS + offer.slot as i64 * 3 * HOUR_MS + jitter
    }

    pub(crate) fn offer_id(&self, offer: Offer) -> ObjectIdBytes {
        const STREAM: u64 = stream("selleroffers._id");
        self.object_id(STREAM, offer.index, self.offer_created_ms(offer))
    }

    /// Cents that an offer asks for, and the number of its currency.
    pub(crate) fn offer_price(&self, offer: Offer) -> (i128, usize) {
        const STREAM: u64 = stream("selleroffers.price");
        let mut random = self.random(STREAM, offer.request);
        let (around, currency) = (random.skewed(900_000, 3) + 500, random.below(6) as usize);
        (i128::from(around + offer.slot * (around / 20)), currency)
    }

    /// The payment of a request whose offer was accepted.
    pub(crate) fn payment_of(&self, request: u64) -> u64 {
        total_before(&ACCEPTED_BEFORE, request)
    }

    pub(crate) fn offer_of_payment(&self, payment: u64) -> Offer {
        let (request, _) = holder(&ACCEPTED_BEFORE, payment);
        self.accepted_offer_of(request).expect("a payment belongs to a request whose offer was accepted")
    }

    pub(crate) fn payment_created_ms(&self, payment: u64) -> i64 {
        self.offer_created_ms(self.offer_of_payment(payment)) + 24 * HOUR_MS
    }

    pub(crate) fn payment_id(&self, payment: u64) -> ObjectIdBytes {
        const STREAM: u64 = stream("payments._id");
        self.object_id(STREAM, payment, self.payment_created_ms(payment))
    }

    /// The name of a payment at its provider; paid in cash or from the wallet it has none.
    pub(crate) fn provider_payment_id(&self, payment: u64) -> Option<String> {
        const STREAM: u64 = stream("payments.providerPaymentId");
        let mut random = self.random(STREAM, payment);
        (!random.chance(12)).then(|| format!("pi_{:016x}{payment:x}", random.bits()))
    }

    pub(crate) fn payment_is_disputed(payment: u64) -> bool {
        payment % DISPUTE_EVERY == DISPUTE_AT
    }

    pub(crate) fn payment_of_dispute(dispute: u64) -> u64 {
        dispute * DISPUTE_EVERY + DISPUTE_AT
    }

    /// Two payments in three have a conversation.
    pub(crate) fn payment_of_chat(chat: u64) -> u64 {
        chat / 2 * 3 + chat % 2
    }

    pub(crate) fn chat_id(&self, chat: u64) -> ObjectIdBytes {
        const STREAM: u64 = stream("chats._id");
        let payment = Sample::payment_of_chat(chat);
        self.object_id(STREAM, chat, self.offer_created_ms(self.offer_of_payment(payment)))
    }

    pub(crate) fn addressee_of(&self, notification: u64) -> u64 {
        const STREAM: u64 = stream("notifications.userId");
        self.any_user(&mut self.random(STREAM, notification), notification, NOTIFICATIONS)
    }

    pub(crate) fn notification_created_ms(&self, notification: u64) -> i64 {
        self.grown_ms(notification, NOTIFICATIONS)
    }

    /// The owner of an address, and whether it is the owner's first: everyone has one, every other user a second.
    pub(crate) fn owner_of_address(&self, address: u64) -> (u64, bool) {
        // Addresses 0, 1 of every three are the first ones of two users; the third is the second one of the earlier of these.
        let (group, place) = (address / 3, address % 3);
        if place < 2 { (group * 2 + place, true) } else { (group * 2, false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(scale: f64) -> Sample {
        Sample::new(
            42,
            Scale::new(scale).expect("a valid scale"),
            Timestamp::from_second(1_800_000_000).expect("a valid time"),
        )
    }

    #[test]
    fn about_a_quarter_of_a_million_documents_at_scale_one() {
        let count = sample(1.0).document_count();
        assert!((240_000..=265_000).contains(&count), "{count}");
        assert_eq!(sample(0.0).document_count(), 0);
    }

    #[test]
    fn offers_and_payments_are_numbered_without_gaps() {
        let sample = sample(1.0);
        let (mut offers, mut payments) = (0, 0);
        for request in 0..500 {
            for slot in 0..sample.offer_count_of(request) {
                assert_eq!(sample.offer(offers), Offer { index: offers, request, slot });
                offers += 1;
            }
            if let Some(accepted) = sample.accepted_offer_of(request) {
                assert_eq!(sample.payment_of(request), payments);
                assert_eq!(sample.offer_of_payment(payments), accepted);
                assert!(accepted.slot < sample.offer_count_of(request));
                payments += 1;
            }
        }
    }

    #[test]
    fn every_reference_stays_inside_the_smallest_samples() {
        for scale in [0.000_01, 0.001, 0.013, 0.1] {
            let sample = sample(scale);
            let users = sample.count(Collection::Users);
            for request in 0..sample.count(Collection::PurchaseRequests) {
                assert!(sample.buyer_of(request) < users);
            }
            for offer in 0..sample.count(Collection::SellerOffers) {
                let offer = sample.offer(offer);
                assert!(sample.seller_of(offer) < users);
                assert_ne!(sample.seller_of(offer), sample.buyer_of(offer.request));
                assert!(Sample::user_is_seller(sample.seller_of(offer)));
            }
            for address in 0..sample.count(Collection::Addresses) {
                assert!(sample.owner_of_address(address).0 < users);
            }
            for notification in 0..sample.count(Collection::Notifications) {
                assert!(sample.addressee_of(notification) < users);
            }
            let payments = sample.count(Collection::Payments);
            for dispute in 0..sample.count(Collection::Disputes) {
                let payment = Sample::payment_of_dispute(dispute);
                assert!(payment < payments && Sample::payment_is_disputed(payment));
            }
            for chat in 0..sample.count(Collection::Chats) {
                assert!(Sample::payment_of_chat(chat) < payments);
            }
        }
    }

    #[test]
    fn dates_grow_and_stay_inside_the_span() {
        let sample = sample(1.0);
        let mut last = i64::MIN;
        for user in [0, 1, 2, 10, 1000, 20_000, 1_000_000, 20_000_000] {
            let created = sample.user_created_ms(user);
            assert!(created > last && created < sample.epoch_ms + SPAN_MS);
            last = created;
        }
    }
}
