/**
 * The marketplace in PostgreSQL: a table for every collection of the sample, and what only PostgreSQL has.
 *
 * Rules that hold everywhere:
 * - An object id is kept as a uuid (version 8: its 96 bits around version and variant, in the same order); what is made here has a uuid of version 7.
 * - Moments have milliseconds, as MongoDB's have; decimals are `numeric` without bounds; 64-bit integers are `bigint`.
 * - Embedded documents become columns where their fields are known, `jsonb` where they are not; arrays of documents become tables whose `ord` is
 *   the place in the array; arrays of plain values become arrays.
 * - `mainstay_residual` holds, as BSON, what columns cannot: a field nobody declared, the type of a number, null where it is not the same as absent.
 *   Columns and residual together are the document.
 */
import { sql } from 'drizzle-orm';
import {
  type AnyPgColumn,
  bigint,
  boolean,
  check,
  customType,
  doublePrecision,
  foreignKey,
  index,
  integer,
  jsonb,
  numeric,
  pgEnum,
  pgTable,
  pgView,
  point,
  primaryKey,
  text,
  timestamp,
  unique,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core';

const bytea = customType<{ data: Buffer }>({ dataType: () => 'bytea' });
const tsvector = customType<{ data: string }>({ dataType: () => 'tsvector' });

const moment = (name: string) => timestamp(name, { withTimezone: true, precision: 3 });
const int64 = (name: string) => bigint(name, { mode: 'bigint' });

/** What does not fit the columns. */
const residual = { residual: bytea('mainstay_residual') };
const created = { createdAt: moment('created_at').notNull() };
/** What Mongoose keeps in every document with timestamps. */
const kept = {
  ...created,
  updatedAt: moment('updated_at').notNull(),
  version: integer('version').notNull().default(0),
  ...residual,
};

// People

export const userRole = pgEnum('user_role', ['buyer', 'seller', 'admin']);
export const userStatus = pgEnum('user_status', ['active', 'pending', 'suspended', 'deleted']);

/** `points` begin at the lowest and end at the highest key, so they are tagged JSON; so is the rule, a piece of JavaScript. */
export const levels = pgTable('levels', {
  id: integer('id').primaryKey(),
  nameEn: text('name_en').notNull().unique(),
  nameFa: text('name_fa').notNull(),
  pointsFrom: jsonb('points_from').notNull(),
  pointsTo: jsonb('points_to').notNull(),
  rule: jsonb('rule'),
  feePercent: numeric('fee_percent').notNull(),
  ...kept,
});

export const users = pgTable(
  'users',
  {
    id: uuid('id').primaryKey(),
    email: text('email').notNull().unique(),
    firstName: text('first_name').notNull(),
    lastName: text('last_name').notNull(),
    displayName: text('display_name').notNull(),
    role: userRole('role').notNull(),
    status: userStatus('status').notNull(),
    googleId: text('google_id'),
    passwordHash: text('password_hash'),
    emailVerified: boolean('email_verified').notNull().default(false),
    phone: text('phone'),
    locale: text('locale').notNull(),
    birthDate: moment('birth_date'),
    avatarUrl: text('avatar_url'),
    avatarThumbnail: bytea('avatar_thumbnail'),
    avatarMd5: bytea('avatar_md5'),
    preferences: jsonb('preferences').notNull().default({}),
    walletBalance: numeric('wallet_balance').notNull().default('0'),
    walletCurrency: text('wallet_currency').notNull(),
    walletPoints: int64('wallet_points').notNull().default(sql`0`),
    ratingAverage: doublePrecision('rating_average'),
    responseBias: doublePrecision('response_bias'),
    completed: integer('completed').notNull().default(0),
    levelId: integer('level_id').references(() => levels.id),
    deviceId: uuid('device_id'),
    lastLoginAt: moment('last_login_at'),
    tags: text('tags').array().notNull(),
    bio: text('bio'),
    ...kept,
  },
  (t) => [
    index('users_google_id').on(t.googleId).where(sql`${t.googleId} is not null`),
    index('users_role').on(t.role),
    index('users_created_at').on(t.createdAt),
  ],
);

export const addresses = pgTable(
  'addresses',
  {
    id: uuid('id').primaryKey(),
    userId: uuid('user_id').notNull().references(() => users.id, { onDelete: 'cascade' }),
    isPrimary: boolean('is_primary').notNull().default(false),
    label: text('label'),
    recipient: text('recipient').notNull(),
    street: text('street').notNull(),
    city: text('city').notNull(),
    country: text('country').notNull(),
    postalCode: text('postal_code'),
    location: point('location', { mode: 'xy' }),
    ...kept,
  },
  (t) => [index('addresses_user_id_is_primary').on(t.userId, t.isPrimary)],
);

/** The one-time codes, which MongoDB deletes by itself: here `expires_at` is for whoever does it. */
export const tempVerifications = pgTable(
  'temp_verifications',
  {
    id: uuid('id').primaryKey(),
    userId: uuid('user_id').notNull().references(() => users.id, { onDelete: 'cascade' }),
    purpose: text('purpose').notNull(),
    codeHash: text('code_hash').notNull(),
    attempts: integer('attempts').notNull().default(0),
    challenge: bytea('challenge'),
    expiresAt: moment('expires_at').notNull(),
    ...residual,
  },
  (t) => [index('temp_verifications_expires_at').on(t.expiresAt)],
);

// Goods

export const purchaseRequestStatus = pgEnum('purchase_request_status', [
  'open',
  'receiving_offers',
  'in_progress',
  'shipped',
  'completed',
  'cancelled',
  'expired',
  'disputed',
]);
export const sellerOfferStatus = pgEnum('seller_offer_status', ['pending', 'accepted', 'rejected', 'withdrawn']);

export const categories = pgTable(
  'categories',
  {
    id: uuid('id').primaryKey(),
    slug: text('slug').notNull().unique(),
    name: text('name').notNull(),
    parentId: uuid('parent_id').references((): AnyPgColumn => categories.id),
    match: jsonb('match'),
    attributes: jsonb('attributes').notNull().default({}),
    ...kept,
  },
  (t) => [index('categories_attributes').using('gin', t.attributes)],
);

export const purchaseRequests = pgTable(
  'purchase_requests',
  {
    id: uuid('id').primaryKey(),
    buyerId: uuid('buyer_id').notNull().references(() => users.id),
    categoryId: uuid('category_id').notNull().references(() => categories.id),
    status: purchaseRequestStatus('status').notNull(),
    acceptedOfferId: uuid('accepted_offer_id').references((): AnyPgColumn => sellerOffers.id),
    title: text('title').notNull(),
    description: text('description').notNull(),
    budgetMin: numeric('budget_min'),
    budgetMax: numeric('budget_max'),
    budgetCurrency: text('budget_currency'),
    urgency: text('urgency').notNull().default('medium'),
    quantity: integer('quantity').notNull().default(1),
    links: text('links').array().notNull(),
    deliveryCity: text('delivery_city'),
    deliveryCountry: text('delivery_country'),
    deliveryBefore: moment('delivery_before'),
    matchScore: doublePrecision('match_score'),
    matchViews: int64('match_views').notNull().default(sql`0`),
    search: tsvector('search').generatedAlwaysAs(
      sql`setweight(to_tsvector('simple', "title"), 'A') || setweight(to_tsvector('simple', "description"), 'B')`,
    ),
    ...kept,
  },
  (t) => [
    index('purchase_requests_buyer_id').on(t.buyerId),
    index('purchase_requests_status').on(t.status),
    index('purchase_requests_created_at').on(t.createdAt),
    index('purchase_requests_search').using('gin', t.search),
    index('purchase_requests_title').using('gin', t.title.op('gin_trgm_ops')),
  ],
);

export const requestSpecifications = pgTable(
  'request_specifications',
  {
    requestId: uuid('request_id').notNull().references(() => purchaseRequests.id, { onDelete: 'cascade' }),
    ord: integer('ord').notNull(),
    key: text('key').notNull(),
    value: text('value').notNull(),
    required: boolean('required').notNull().default(false),
  },
  (t) => [primaryKey({ columns: [t.requestId, t.ord] })],
);

export const sellerOffers = pgTable(
  'seller_offers',
  {
    id: uuid('id').primaryKey(),
    requestId: uuid('request_id').notNull().references((): AnyPgColumn => purchaseRequests.id),
    sellerId: uuid('seller_id').notNull().references(() => users.id),
    status: sellerOfferStatus('status').notNull(),
    priceAmount: numeric('price_amount').notNull(),
    priceCurrency: text('price_currency').notNull(),
    deliveryDays: integer('delivery_days'),
    message: text('message').notNull().default(''),
    negotiable: boolean('negotiable').notNull().default(false),
    warrantyMonths: integer('warranty_months'),
    warrantyInternational: boolean('warranty_international'),
    ...kept,
  },
  (t) => [
    index('seller_offers_request_id').on(t.requestId),
    index('seller_offers_seller_id').on(t.sellerId),
    index('seller_offers_status').on(t.status),
  ],
);

// Money

export const paymentStatus = pgEnum('payment_status', ['pending', 'held', 'released', 'refunded', 'disputed']);
export const disputeStatus = pgEnum('dispute_status', ['open', 'escalated', 'resolved']);
/** The type that the id of a dispute had; `id` is that id as text. */
export const disputeIdKind = pgEnum('dispute_id_kind', ['object_id', 'string', 'int64', 'uuid', 'document', 'date']);

export const payments = pgTable(
  'payments',
  {
    id: uuid('id').primaryKey(),
    userId: uuid('user_id').notNull().references(() => users.id),
    sellerId: uuid('seller_id').notNull().references(() => users.id),
    requestId: uuid('request_id').notNull().references(() => purchaseRequests.id),
    offerId: uuid('offer_id').notNull().references(() => sellerOffers.id),
    status: paymentStatus('status').notNull().default('pending'),
    amountValue: numeric('amount_value').notNull(),
    amountFee: numeric('amount_fee').notNull().default('0'),
    amountCurrency: text('amount_currency').notNull(),
    provider: text('provider').notNull(),
    providerPaymentId: text('provider_payment_id'),
    transactionHash: text('transaction_hash'),
    blockNumber: int64('block_number'),
    ledgerPosition: int64('ledger_position'),
    metadata: jsonb('metadata').notNull().default({}),
    ...kept,
  },
  (t) => [
    uniqueIndex('payments_provider_payment_id').on(t.providerPaymentId),
    unique('payments_offer_id').on(t.offerId),
    index('payments_user_id').on(t.userId),
    index('payments_status').on(t.status),
    index('payments_created_at').on(t.createdAt),
    index('payments_transaction_hash').on(t.transactionHash),
  ],
);

export const paymentHistory = pgTable(
  'payment_history',
  {
    paymentId: uuid('payment_id').notNull().references(() => payments.id, { onDelete: 'cascade' }),
    ord: integer('ord').notNull(),
    status: text('status').notNull(),
    at: moment('at').notNull(),
    by: text('by').notNull(),
  },
  (t) => [primaryKey({ columns: [t.paymentId, t.ord] })],
);

export const disputes = pgTable(
  'disputes',
  {
    idKind: disputeIdKind('id_kind').notNull(),
    id: text('id').notNull(),
    paymentId: uuid('payment_id').notNull().unique().references(() => payments.id),
    openedBy: uuid('opened_by').notNull().references(() => users.id),
    against: uuid('against').references(() => users.id),
    status: disputeStatus('status').notNull().default('open'),
    reason: text('reason').notNull(),
    statement: text('statement').notNull(),
    evidence: jsonb('evidence').notNull().default([]),
    notes: jsonb('notes').notNull().default({}),
    openedAt: moment('opened_at').notNull(),
    ...kept,
  },
  (t) => [
    primaryKey({ columns: [t.idKind, t.id] }),
    index('disputes_status_opened_at').on(t.status, t.openedAt.desc()).where(sql`${t.status} = 'open'`),
  ],
);

export const payoutAccounts = pgTable(
  'payout_accounts',
  {
    id: uuid('id').primaryKey(),
    ownerId: uuid('owner_id').notNull().references(() => users.id),
    iban: text('iban').notNull(),
    currency: text('currency').notNull(),
    status: text('status').notNull(),
    ...created,
    ...residual,
  },
  (t) => [
    index('payout_accounts_owner_id').using('hash', t.ownerId),
    check('payout_accounts_iban', sql`${t.iban} ~ '^[A-Z]{2}[0-9]{22}$'`),
    check('payout_accounts_currency', sql`${t.currency} in ('EUR', 'USD', 'TRY', 'AED')`),
    check('payout_accounts_status', sql`${t.status} in ('verified', 'pending')`),
  ],
);

// Talk

export const chats = pgTable(
  'chats',
  {
    id: uuid('id').primaryKey(),
    kind: text('kind').notNull(),
    requestId: uuid('request_id').references(() => purchaseRequests.id),
    offerId: uuid('offer_id').references(() => sellerOffers.id),
    unreadBuyer: integer('unread_buyer').notNull().default(0),
    unreadSeller: integer('unread_seller').notNull().default(0),
    archived: boolean('archived').notNull().default(false),
    lastMessageAt: moment('last_message_at'),
    attachment: bytea('attachment'),
    ...kept,
  },
  (t) => [index('chats_updated_at').on(t.updatedAt)],
);

export const chatParticipants = pgTable(
  'chat_participants',
  {
    chatId: uuid('chat_id').notNull().references(() => chats.id, { onDelete: 'cascade' }),
    ord: integer('ord').notNull(),
    userId: uuid('user_id').notNull().references(() => users.id),
  },
  (t) => [primaryKey({ columns: [t.chatId, t.ord] }), index('chat_participants_user_id').on(t.userId)],
);

export const chatMessages = pgTable(
  'chat_messages',
  {
    chatId: uuid('chat_id').notNull().references(() => chats.id, { onDelete: 'cascade' }),
    ord: integer('ord').notNull(),
    id: uuid('id').notNull(),
    senderId: uuid('sender_id').notNull().references(() => users.id),
    text: text('text').notNull(),
    at: moment('at').notNull(),
    readBy: uuid('read_by').array().notNull(),
    imageUrl: text('image_url'),
    imageWidth: integer('image_width'),
    reactions: jsonb('reactions'),
  },
  (t) => [primaryKey({ columns: [t.chatId, t.ord] })],
);

export const notifications = pgTable(
  'notifications',
  {
    id: uuid('id').primaryKey(),
    userId: uuid('user_id').notNull().references(() => users.id, { onDelete: 'cascade' }),
    type: text('type').notNull(),
    title: text('title').notNull(),
    body: text('body').notNull(),
    read: boolean('read').notNull().default(false),
    data: jsonb('data'),
    ...created,
    version: integer('version').notNull().default(0),
    ...residual,
  },
  (t) => [index('notifications_user_id_read').on(t.userId, t.read), index('notifications_created_at').on(t.createdAt)],
);

// Records

export const eventLog = pgTable(
  'event_log',
  {
    id: int64('id').primaryKey(),
    at: moment('at').notNull(),
    level: text('level').notNull(),
    message: text('message').notNull(),
    pid: integer('pid'),
    durationMs: doublePrecision('duration_ms'),
    ...residual,
  },
  (t) => [index('event_log_level_at').on(t.level, t.at.desc())],
);

export const priceHistory = pgTable(
  'price_history',
  {
    id: uuid('id').primaryKey(),
    at: moment('at').notNull(),
    categoryId: uuid('category_id').notNull().references(() => categories.id),
    source: text('source').notNull(),
    mean: doublePrecision('mean').notNull(),
    samples: integer('samples').notNull(),
    ...residual,
  },
  (t) => [index('price_history_category_id_at').on(t.categoryId, t.at)],
);

export const sessionSnapshots = pgTable(
  'session_snapshots',
  {
    id: uuid('id').primaryKey(),
    userId: uuid('user_id').notNull().references(() => users.id, { onDelete: 'cascade' }),
    city: text('city').notNull(),
    location: point('location', { mode: 'xy' }).notNull(),
    pages: text('pages').array().notNull(),
    takenAt: moment('taken_at').notNull(),
    ...residual,
  },
  (t) => [index('session_snapshots_location').using('gist', t.location)],
);

/** `term` compares as German does, and digits as numbers: migration 0005 says so, for Drizzle has no word for it. */
export const searchTerms = pgTable(
  'search_terms',
  {
    id: int64('id').primaryKey(),
    term: text('term').notNull().unique(),
    searches: int64('searches').notNull(),
    ...residual,
  },
  (t) => [index('search_terms_searches').on(t.searches.desc())],
);

export const orders = pgTable('orders', {
  id: uuid('id').primaryKey(),
  number: int64('number').notNull(),
  status: text('status').notNull(),
  total: numeric('total').notNull(),
  customerId: uuid('customer_id').notNull(),
  customerCity: text('customer_city').notNull(),
  signature: bytea('signature').notNull(),
  note: text('note').notNull(),
  ...created,
  ...residual,
});

export const orderLines = pgTable(
  'order_lines',
  {
    orderId: uuid('order_id').notNull().references(() => orders.id, { onDelete: 'cascade' }),
    ord: integer('ord').notNull(),
    line: integer('line').notNull(),
    quantity: integer('quantity').notNull(),
    price: doublePrecision('price').notNull(),
  },
  (t) => [primaryKey({ columns: [t.orderId, t.ord] })],
);

export const activeSellers = pgView('active_sellers').as((query) =>
  query
    .select({
      id: users.id,
      displayName: users.displayName,
      ratingAverage: users.ratingAverage,
      responseBias: users.responseBias,
      completed: users.completed,
      levelId: users.levelId,
      createdAt: users.createdAt,
    })
    .from(users)
    .where(sql`${users.role} = 'seller' and ${users.status} = 'active'`),
);

// What PostgreSQL alone has

/** Prices an oracle promised for a payment. There is none without its payment, nor while `ORACLE_QUOTING_ENABLED` is off. */
export const paymentQuotes = pgTable(
  'payment_quotes',
  {
    id: uuid('id').primaryKey().default(sql`uuidv7()`),
    paymentId: uuid('payment_id').notNull(),
    oracle: text('oracle').notNull(),
    baseCurrency: text('base_currency').notNull(),
    quoteCurrency: text('quote_currency').notNull(),
    rate: numeric('rate').notNull(),
    baseAmount: numeric('base_amount').notNull(),
    quoteAmount: numeric('quote_amount').notNull(),
    quotedAt: moment('quoted_at').notNull(),
    expiresAt: moment('expires_at').notNull(),
    acceptedAt: moment('accepted_at'),
    createdAt: moment('created_at').notNull().defaultNow(),
  },
  (t) => [
    foreignKey({ name: 'payment_quotes_payment_id', columns: [t.paymentId], foreignColumns: [payments.id] }).onDelete(
      'restrict',
    ),
    unique('payment_quotes_payment_id_oracle_quoted_at').on(t.paymentId, t.oracle, t.quotedAt),
    check('payment_quotes_rate', sql`${t.rate} > 0`),
    check('payment_quotes_expires_at', sql`${t.expiresAt} > ${t.quotedAt}`),
  ],
);

export const gapOperation = pgEnum('gap_operation', ['insert', 'update', 'delete', 'transaction']);
export const gapSource = pgEnum('gap_source', ['app', 'cdc_audit', 'verify', 'shadow']);
export const gapState = pgEnum('gap_state', ['open', 'repairing', 'repaired', 'superseded', 'waived']);

/** Documents that PostgreSQL is known to lack, or to have otherwise. What they say is never kept here, only hashes of it. */
export const pgDualwriteGaps = pgTable(
  'pg_dualwrite_gaps',
  {
    id: uuid('id').primaryKey().default(sql`uuidv7()`),
    domain: text('domain').notNull(),
    ns: text('ns').notNull(),
    docKey: bytea('doc_key').notNull(),
    pgTable: text('pg_table').notNull(),
    operation: gapOperation('operation').notNull(),
    source: gapSource('source').notNull(),
    writer: text('writer').notNull(),
    requestId: text('request_id'),
    occurredAt: moment('occurred_at').notNull(),
    mongoClusterTime: int64('mongo_cluster_time'),
    mongoTransaction: text('mongo_transaction'),
    intendedHash: bytea('intended_hash'),
    pgHash: bytea('pg_hash'),
    errorClass: text('error_class'),
    sqlstate: text('sqlstate'),
    errorText: text('error_text'),
    attempts: integer('attempts').notNull().default(0),
    dedupeKey: text('dedupe_key').notNull().unique(),
    state: gapState('state').notNull().default('open'),
    repairedEpoch: int64('repaired_epoch'),
    waivedBy: text('waived_by'),
    waiveReason: text('waive_reason'),
    firstSeen: timestamp('first_seen', { withTimezone: true }).notNull().defaultNow(),
    lastSeen: timestamp('last_seen', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [
    index('pg_dualwrite_gaps_open').on(t.domain, t.occurredAt).where(sql`${t.state} in ('open', 'repairing')`),
    check('pg_dualwrite_gaps_waived', sql`${t.state} <> 'waived' or ${t.waivedBy} is not null`),
  ],
);
