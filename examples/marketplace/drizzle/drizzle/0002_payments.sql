CREATE TYPE "public"."dispute_id_kind" AS ENUM('object_id', 'string', 'int64', 'uuid', 'document', 'date');--> statement-breakpoint
CREATE TYPE "public"."dispute_status" AS ENUM('open', 'escalated', 'resolved');--> statement-breakpoint
CREATE TYPE "public"."payment_status" AS ENUM('pending', 'held', 'released', 'refunded', 'disputed');--> statement-breakpoint
ALTER TYPE "public"."purchase_request_status" ADD VALUE 'disputed';--> statement-breakpoint
CREATE TABLE "disputes" (
	"id_kind" "dispute_id_kind" NOT NULL,
	"id" text NOT NULL,
	"payment_id" uuid NOT NULL,
	"opened_by" uuid NOT NULL,
	"against" uuid,
	"status" "dispute_status" DEFAULT 'open' NOT NULL,
	"reason" text NOT NULL,
	"statement" text NOT NULL,
	"evidence" jsonb DEFAULT '[]'::jsonb NOT NULL,
	"notes" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"opened_at" timestamp (3) with time zone NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"updated_at" timestamp (3) with time zone NOT NULL,
	"version" integer DEFAULT 0 NOT NULL,
	"mainstay_residual" "bytea",
	CONSTRAINT "disputes_id_kind_id_pk" PRIMARY KEY("id_kind","id"),
	CONSTRAINT "disputes_payment_id_unique" UNIQUE("payment_id")
);
--> statement-breakpoint
CREATE TABLE "payment_history" (
	"payment_id" uuid NOT NULL,
	"ord" integer NOT NULL,
	"status" text NOT NULL,
	"at" timestamp (3) with time zone NOT NULL,
	"by" text NOT NULL,
	CONSTRAINT "payment_history_payment_id_ord_pk" PRIMARY KEY("payment_id","ord")
);
--> statement-breakpoint
CREATE TABLE "payments" (
	"id" uuid PRIMARY KEY NOT NULL,
	"user_id" uuid NOT NULL,
	"seller_id" uuid NOT NULL,
	"request_id" uuid NOT NULL,
	"offer_id" uuid NOT NULL,
	"status" "payment_status" DEFAULT 'pending' NOT NULL,
	"amount_value" numeric NOT NULL,
	"amount_fee" numeric DEFAULT '0' NOT NULL,
	"amount_currency" text NOT NULL,
	"provider" text NOT NULL,
	"provider_payment_id" text,
	"transaction_hash" text,
	"block_number" integer,
	"ledger_position" bigint,
	"metadata" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"updated_at" timestamp (3) with time zone NOT NULL,
	"version" integer DEFAULT 0 NOT NULL,
	"mainstay_residual" "bytea",
	CONSTRAINT "payments_offer_id" UNIQUE("offer_id")
);
--> statement-breakpoint
CREATE TABLE "payout_accounts" (
	"id" uuid PRIMARY KEY NOT NULL,
	"owner_id" uuid NOT NULL,
	"iban" text NOT NULL,
	"currency" text NOT NULL,
	"status" text NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"mainstay_residual" "bytea",
	CONSTRAINT "payout_accounts_iban" CHECK ("payout_accounts"."iban" ~ '^[A-Z]{2}[0-9]{22}$'),
	CONSTRAINT "payout_accounts_currency" CHECK ("payout_accounts"."currency" in ('EUR', 'USD', 'TRY', 'AED')),
	CONSTRAINT "payout_accounts_status" CHECK ("payout_accounts"."status" in ('verified', 'pending'))
);
--> statement-breakpoint
ALTER TABLE "disputes" ADD CONSTRAINT "disputes_payment_id_payments_id_fk" FOREIGN KEY ("payment_id") REFERENCES "public"."payments"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "disputes" ADD CONSTRAINT "disputes_opened_by_users_id_fk" FOREIGN KEY ("opened_by") REFERENCES "public"."users"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "disputes" ADD CONSTRAINT "disputes_against_users_id_fk" FOREIGN KEY ("against") REFERENCES "public"."users"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "payment_history" ADD CONSTRAINT "payment_history_payment_id_payments_id_fk" FOREIGN KEY ("payment_id") REFERENCES "public"."payments"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "payments" ADD CONSTRAINT "payments_user_id_users_id_fk" FOREIGN KEY ("user_id") REFERENCES "public"."users"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "payments" ADD CONSTRAINT "payments_seller_id_users_id_fk" FOREIGN KEY ("seller_id") REFERENCES "public"."users"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "payments" ADD CONSTRAINT "payments_request_id_purchase_requests_id_fk" FOREIGN KEY ("request_id") REFERENCES "public"."purchase_requests"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "payments" ADD CONSTRAINT "payments_offer_id_seller_offers_id_fk" FOREIGN KEY ("offer_id") REFERENCES "public"."seller_offers"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "payout_accounts" ADD CONSTRAINT "payout_accounts_owner_id_users_id_fk" FOREIGN KEY ("owner_id") REFERENCES "public"."users"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "disputes_status_opened_at" ON "disputes" USING btree ("status","opened_at" DESC NULLS LAST) WHERE "disputes"."status" = 'open';--> statement-breakpoint
CREATE UNIQUE INDEX "payments_provider_payment_id" ON "payments" USING btree ("provider_payment_id");--> statement-breakpoint
CREATE INDEX "payments_user_id" ON "payments" USING btree ("user_id");--> statement-breakpoint
CREATE INDEX "payments_status" ON "payments" USING btree ("status");--> statement-breakpoint
CREATE INDEX "payments_created_at" ON "payments" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "payments_transaction_hash" ON "payments" USING btree ("transaction_hash");--> statement-breakpoint
CREATE INDEX "payout_accounts_owner_id" ON "payout_accounts" USING hash ("owner_id");