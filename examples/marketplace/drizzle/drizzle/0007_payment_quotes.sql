CREATE TYPE "public"."gap_operation" AS ENUM('insert', 'update', 'delete', 'transaction');--> statement-breakpoint
CREATE TYPE "public"."gap_source" AS ENUM('app', 'cdc_audit', 'verify', 'shadow');--> statement-breakpoint
CREATE TYPE "public"."gap_state" AS ENUM('open', 'repairing', 'repaired', 'superseded', 'waived');--> statement-breakpoint
CREATE TABLE "payment_quotes" (
	"id" uuid PRIMARY KEY DEFAULT uuidv7() NOT NULL,
	"payment_id" uuid NOT NULL,
	"oracle" text NOT NULL,
	"base_currency" text NOT NULL,
	"quote_currency" text NOT NULL,
	"rate" numeric NOT NULL,
	"base_amount" numeric NOT NULL,
	"quote_amount" numeric NOT NULL,
	"quoted_at" timestamp (3) with time zone NOT NULL,
	"expires_at" timestamp (3) with time zone NOT NULL,
	"accepted_at" timestamp (3) with time zone,
	"created_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "payment_quotes_payment_id_oracle_quoted_at" UNIQUE("payment_id","oracle","quoted_at"),
	CONSTRAINT "payment_quotes_rate" CHECK ("payment_quotes"."rate" > 0),
	CONSTRAINT "payment_quotes_expires_at" CHECK ("payment_quotes"."expires_at" > "payment_quotes"."quoted_at")
);
--> statement-breakpoint
CREATE TABLE "pg_dualwrite_gaps" (
	"id" uuid PRIMARY KEY DEFAULT uuidv7() NOT NULL,
	"domain" text NOT NULL,
	"ns" text NOT NULL,
	"doc_key" "bytea" NOT NULL,
	"pg_table" text NOT NULL,
	"operation" "gap_operation" NOT NULL,
	"source" "gap_source" NOT NULL,
	"writer" text NOT NULL,
	"request_id" text,
	"occurred_at" timestamp (3) with time zone NOT NULL,
	"mongo_cluster_time" bigint,
	"mongo_transaction" text,
	"intended_hash" "bytea",
	"pg_hash" "bytea",
	"error_class" text,
	"sqlstate" text,
	"error_text" text,
	"attempts" integer DEFAULT 0 NOT NULL,
	"dedupe_key" text NOT NULL,
	"state" "gap_state" DEFAULT 'open' NOT NULL,
	"repaired_epoch" bigint,
	"waived_by" text,
	"waive_reason" text,
	"first_seen" timestamp with time zone DEFAULT now() NOT NULL,
	"last_seen" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "pg_dualwrite_gaps_dedupe_key_unique" UNIQUE("dedupe_key"),
	CONSTRAINT "pg_dualwrite_gaps_waived" CHECK ("pg_dualwrite_gaps"."state" <> 'waived' or "pg_dualwrite_gaps"."waived_by" is not null)
);
--> statement-breakpoint
ALTER TABLE "payment_quotes" ADD CONSTRAINT "payment_quotes_payment_id" FOREIGN KEY ("payment_id") REFERENCES "public"."payments"("id") ON DELETE restrict ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "pg_dualwrite_gaps_open" ON "pg_dualwrite_gaps" USING btree ("domain","occurred_at") WHERE "pg_dualwrite_gaps"."state" in ('open', 'repairing');