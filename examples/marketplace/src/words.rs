//! The vocabulary: names in several scripts, words of several languages, places and pictures.
//!
//! Field values are drawn from here, so the sample meets what real text holds: right-to-left scripts, combining marks, surrogate-pair
//! emoji and joined ones.

use crate::random::Random;
use crate::writer::Text;
use std::fmt::Write;

pub(crate) const FIRST_NAMES: &[&str] = &[
    "Anna",
    "Björn",
    "Chloé",
    "Duarte",
    "Łucja",
    "Øyvind",
    "Siobhán",
    "Zoë",
    "José",
    "Nguyễn",
    "Ağca",
    "Þóra",
    "Ольга",
    "Дмитрий",
    "Наталія",
    "Ελένη",
    "Γιώργος",
    "مریم",
    "آرش",
    "نیلوفر",
    "محمد",
    "فاطمة",
    "יעל",
    "אברהם",
    "小明",
    "美玲",
    "雅婷",
    "さくら",
    "健太",
    "ハルカ",
    "민준",
    "서연",
    "आरव",
    "प्रिया",
    "สมชาย",
    "தமிழ்",
    "Արամ",
    "თამარი",
    "Emma",
    "Liam",
    "Olivia",
    "Noah",
    "Amara",
    "Kwame",
    "Nia",
    "Tendai",
    "Mateo",
    "Valentina",
];

pub(crate) const LAST_NAMES: &[&str] = &[
    "Andersson",
    "O'Neill",
    "García Márquez",
    "Müller-Lüdenscheidt",
    "Żółkiewski",
    "Nguyễn Văn",
    "D’Arcy",
    "Şahin",
    "Guðmundsdóttir",
    "Иванова",
    "Шевченко",
    "Παπαδόπουλος",
    "احمدی",
    "رضایی",
    "الخطيب",
    "כהן",
    "王",
    "欧阳",
    "佐藤",
    "渡辺",
    "김",
    "शर्मा",
    "ศรีสุข",
    "Սարգսյան",
    "ბერიძე",
    "Smith",
    "Johnson",
    "Okafor",
    "Mensah",
    "Silva",
    "Rossi",
    "Dubois",
    "van den Berg",
    "de la Cruz",
    "Ito",
    "Park",
    "Singh",
    "Ali",
    "Kowalski",
    "Novák",
];

/// What follows some display names: plain, joined, with a skin tone, a flag, a keycap and a combining accent.
pub(crate) const NAME_MARKS: &[&str] = &["🌸", "👩‍💻", "🧑🏽‍🍳", "🇮🇷", "7️⃣", "e\u{301}", "🏳️‍🌈", "™"];

/// City, country, postal-code pattern (`9` is a digit, `A` a letter), longitude and latitude.
pub(crate) const CITIES: &[(&str, &str, &str, f64, f64)] = &[
    ("تهران", "IR", "9999999999", 51.389, 35.6892),
    ("اصفهان", "IR", "9999999999", 51.6776, 32.6539),
    ("München", "DE", "99999", 11.582, 48.1351),
    ("Łódź", "PL", "99-999", 19.456, 51.7592),
    ("İstanbul", "TR", "99999", 28.9784, 41.0082),
    ("Αθήνα", "GR", "999 99", 23.7275, 37.9838),
    ("Київ", "UA", "99999", 30.5234, 50.4501),
    ("東京", "JP", "999-9999", 139.6917, 35.6895),
    ("서울", "KR", "99999", 126.978, 37.5665),
    ("上海", "CN", "999999", 121.4737, 31.2304),
    ("मुंबई", "IN", "999999", 72.8777, 19.076),
    ("กรุงเทพฯ", "TH", "99999", 100.5018, 13.7563),
    ("תל אביב", "IL", "9999999", 34.7818, 32.0853),
    ("São Paulo", "BR", "99999-999", -46.6333, -23.5505),
    ("Reykjavík", "IS", "999", -21.9426, 64.1466),
    ("Dubai", "AE", "", 55.2708, 25.2048),
    ("London", "GB", "A9A 9AA", -0.1276, 51.5072),
    ("Suva", "FJ", "", 178.4419, -18.1416),
];

pub(crate) const STREETS: &[&str] = &[
    "خیابان ولیعصر",
    "Hauptstraße",
    "ul. Piotrkowska",
    "İstiklal Caddesi",
    "Λεωφόρος Συγγρού",
    "вулиця Хрещатик",
    "青山通り",
    "강남대로",
    "南京路",
    "Avenida Paulista",
    "Laugavegur",
    "Queen’s Road",
    "Rue de l’Église",
    "Dizengoff",
    "Sheikh Zayed Road",
    "Elm Street",
];

const WORDS: &[&str] = &[
    "looking",
    "for",
    "a",
    "used",
    "camera",
    "with",
    "original",
    "box",
    "and",
    "lens",
    "in",
    "good",
    "condition",
    "please",
    "include",
    "photos",
    "of",
    "the",
    "serial",
    "number",
    "delivery",
    "within",
    "two",
    "weeks",
    "to",
    "my",
    "office",
    "warranty",
    "required",
    "size",
    "colour",
    "black",
    "silver",
    "leather",
    "wireless",
    "battery",
    "charger",
    "vintage",
    "handmade",
    "ceramic",
    "table",
    "lamp",
    "bicycle",
    "frame",
    "carbon",
    "steel",
    "wool",
    "carpet",
    "laptop",
    "keyboard",
    "monitor",
    "phone",
    "tablet",
    "headphones",
    "shipping",
    "customs",
    "invoice",
    "escrow",
    "payment",
    "refund",
    "offer",
    "price",
    "negotiable",
    "budget",
    "quality",
    "genuine",
    "certificate",
    "import",
    "brand",
    "new",
    "second",
    "hand",
    "guitar",
    "piano",
    "book",
    "collection",
    "rare",
    "edition",
    "signed",
    "watch",
    "strap",
    "automatic",
    "movement",
    "coffee",
    "grinder",
    "espresso",
    "machine",
    "saffron",
    "tea",
    "pistachio",
    "rice",
    "spice",
    "jacket",
    "boots",
    "tent",
    "sleeping",
    "bag",
    "drone",
    "tripod",
    "microphone",
    "printer",
    "paper",
    "ink",
    "toner",
];

const FOREIGN_WORDS: &[&str] = &[
    "لطفاً",
    "ارسال",
    "فوری",
    "قیمت",
    "مناسب",
    "привет",
    "доставка",
    "быстро",
    "καλημέρα",
    "παρακαλώ",
    "こんにちは",
    "配送",
    "中古",
    "신품",
    "배송비",
    "नमस्ते",
    "कीमत",
    "ขอบคุณ",
    "תודה",
    "mañana",
    "größe",
    "naïve",
    "coöperate",
    "façade",
    "żółty",
    "🙂",
    "👍🏾",
    "📦",
    "🚚💨",
    "❤️‍🔥",
    "½",
    "№5",
    "€",
    "﷼",
];

pub(crate) const CURRENCIES: &[&str] = &["USD", "EUR", "IRR", "AED", "TRY", "USDT"];
pub(crate) const LOCALES: &[&str] = &["fa-IR", "en-US", "de-DE", "tr-TR", "ar-AE", "ja-JP", "uk-UA"];
pub(crate) const TOPICS: &[&str] = &[
    "Electronics",
    "Books",
    "Fashion",
    "Home & Garden",
    "Sports",
    "Toys",
    "Groceries",
    "Tools",
    "Music",
    "Art",
    "Travel",
    "Services",
    "صنایع دستی",
    "化粧品",
];

/// A sentence of `word_count` words; about one in nine is not English.
pub(crate) fn sentence(text: &mut Text<'_>, random: &mut Random, word_count: u64) {
    for at in 0..word_count {
        if at > 0 {
            text.push(" ");
        }
        text.push(word(random));
    }
}

/// Words up to exactly `length` bytes of ASCII text, cut inside the last word where needed.
pub(crate) fn filler(text: &mut Text<'_>, random: &mut Random, length: usize) {
    let end = text.len() + length;
    while text.len() < end {
        let word = random.pick(WORDS);
        let room = end - text.len();
        text.push(&word[..word.len().min(room)]);
        if text.len() < end {
            text.push(" ");
        }
    }
}

fn word(random: &mut Random) -> &'static str {
    if random.below(9) == 0 { random.pick(FOREIGN_WORDS) } else { random.pick(WORDS) }
}

pub(crate) fn hex(text: &mut Text<'_>, bytes: &[u8]) {
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to memory cannot fail");
    }
}

/// Fills a pattern in which `9` stands for a digit and `A` for a letter.
pub(crate) fn pattern(text: &mut Text<'_>, random: &mut Random, pattern: &str) {
    for symbol in pattern.chars() {
        let shown = match symbol {
            '9' => char::from(b'0' + random.below(10) as u8),
            'A' => char::from(b'A' + random.below(26) as u8),
            other => other,
        };
        text.write_char(shown).expect("writing to memory cannot fail");
    }
}
