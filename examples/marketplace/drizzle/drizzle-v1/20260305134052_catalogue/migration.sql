CREATE TYPE "public"."purchase_request_status" AS ENUM('open', 'receiving_offers', 'in_progress', 'shipped', 'completed', 'cancelled', 'expired');--> statement-breakpoint
CREATE TYPE "public"."seller_offer_status" AS ENUM('pending', 'accepted', 'rejected', 'withdrawn');--> statement-breakpoint
CREATE TABLE "categories" (
	"id" uuid PRIMARY KEY NOT NULL,
	"slug" text NOT NULL,
	"name" text NOT NULL,
	"parent_id" uuid,
	"match" jsonb,
	"attributes" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"updated_at" timestamp (3) with time zone NOT NULL,
	"version" integer DEFAULT 0 NOT NULL,
	"mainstay_residual" "bytea",
	CONSTRAINT "categories_slug_unique" UNIQUE("slug")
);
--> statement-breakpoint
CREATE TABLE "purchase_requests" (
	"id" uuid PRIMARY KEY NOT NULL,
	"buyer_id" uuid NOT NULL,
	"category_id" uuid NOT NULL,
	"status" "purchase_request_status" NOT NULL,
	"accepted_offer_id" uuid,
	"title" text NOT NULL,
	"description" text NOT NULL,
	"budget_min" numeric,
	"budget_max" numeric,
	"budget_currency" text,
	"urgency" text DEFAULT 'medium' NOT NULL,
	"quantity" integer DEFAULT 1 NOT NULL,
	"links" text[] NOT NULL,
	"delivery_city" text,
	"delivery_country" text,
	"delivery_before" timestamp (3) with time zone,
	"match_score" double precision,
	"match_views" bigint DEFAULT 0 NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"updated_at" timestamp (3) with time zone NOT NULL,
	"version" integer DEFAULT 0 NOT NULL,
	"mainstay_residual" "bytea"
);
--> statement-breakpoint
CREATE TABLE "request_specifications" (
	"request_id" uuid NOT NULL,
	"ord" integer NOT NULL,
	"key" text NOT NULL,
	"value" text NOT NULL,
	"required" boolean DEFAULT false NOT NULL,
	CONSTRAINT "request_specifications_request_id_ord_pk" PRIMARY KEY("request_id","ord")
);
--> statement-breakpoint
CREATE TABLE "seller_offers" (
	"id" uuid PRIMARY KEY NOT NULL,
	"request_id" uuid NOT NULL,
	"seller_id" uuid NOT NULL,
	"status" "seller_offer_status" NOT NULL,
	"price_amount" numeric NOT NULL,
	"price_currency" text NOT NULL,
	"delivery_days" integer,
	"message" text DEFAULT '' NOT NULL,
	"negotiable" boolean DEFAULT false NOT NULL,
	"warranty_months" integer,
	"warranty_international" boolean,
	"created_at" timestamp (3) with time zone NOT NULL,
	"updated_at" timestamp (3) with time zone NOT NULL,
	"version" integer DEFAULT 0 NOT NULL,
	"mainstay_residual" "bytea"
);
--> statement-breakpoint
ALTER TABLE "categories" ADD CONSTRAINT "categories_parent_id_categories_id_fk" FOREIGN KEY ("parent_id") REFERENCES "public"."categories"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "purchase_requests" ADD CONSTRAINT "purchase_requests_buyer_id_users_id_fk" FOREIGN KEY ("buyer_id") REFERENCES "public"."users"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "purchase_requests" ADD CONSTRAINT "purchase_requests_category_id_categories_id_fk" FOREIGN KEY ("category_id") REFERENCES "public"."categories"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "purchase_requests" ADD CONSTRAINT "purchase_requests_accepted_offer_id_seller_offers_id_fk" FOREIGN KEY ("accepted_offer_id") REFERENCES "public"."seller_offers"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "request_specifications" ADD CONSTRAINT "request_specifications_request_id_purchase_requests_id_fk" FOREIGN KEY ("request_id") REFERENCES "public"."purchase_requests"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "seller_offers" ADD CONSTRAINT "seller_offers_request_id_purchase_requests_id_fk" FOREIGN KEY ("request_id") REFERENCES "public"."purchase_requests"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "seller_offers" ADD CONSTRAINT "seller_offers_seller_id_users_id_fk" FOREIGN KEY ("seller_id") REFERENCES "public"."users"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "categories_attributes" ON "categories" USING gin ("attributes");--> statement-breakpoint
CREATE INDEX "purchase_requests_buyer_id" ON "purchase_requests" USING btree ("buyer_id");--> statement-breakpoint
CREATE INDEX "purchase_requests_status" ON "purchase_requests" USING btree ("status");--> statement-breakpoint
CREATE INDEX "purchase_requests_created_at" ON "purchase_requests" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "seller_offers_request_id" ON "seller_offers" USING btree ("request_id");--> statement-breakpoint
CREATE INDEX "seller_offers_seller_id" ON "seller_offers" USING btree ("seller_id");--> statement-breakpoint
CREATE INDEX "seller_offers_status" ON "seller_offers" USING btree ("status");