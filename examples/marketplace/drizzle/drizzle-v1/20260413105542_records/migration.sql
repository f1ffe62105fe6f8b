CREATE TABLE "event_log" (
	"id" bigint PRIMARY KEY NOT NULL,
	"at" timestamp (3) with time zone NOT NULL,
	"level" text NOT NULL,
	"message" text NOT NULL,
	"pid" integer,
	"duration_ms" double precision,
	"mainstay_residual" "bytea"
);
--> statement-breakpoint
CREATE TABLE "order_lines" (
	"order_id" uuid NOT NULL,
	"ord" integer NOT NULL,
	"line" integer NOT NULL,
	"quantity" integer NOT NULL,
	"price" double precision NOT NULL,
	CONSTRAINT "order_lines_order_id_ord_pk" PRIMARY KEY("order_id","ord")
);
--> statement-breakpoint
CREATE TABLE "orders" (
	"id" uuid PRIMARY KEY NOT NULL,
	"number" bigint NOT NULL,
	"status" text NOT NULL,
	"total" numeric NOT NULL,
	"customer_id" uuid NOT NULL,
	"customer_city" text NOT NULL,
	"signature" "bytea" NOT NULL,
	"note" text NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"mainstay_residual" "bytea"
);
--> statement-breakpoint
CREATE TABLE "price_history" (
	"id" uuid PRIMARY KEY NOT NULL,
	"at" timestamp (3) with time zone NOT NULL,
	"category_id" uuid NOT NULL,
	"source" text NOT NULL,
	"mean" double precision NOT NULL,
	"samples" integer NOT NULL,
	"mainstay_residual" "bytea"
);
--> statement-breakpoint
CREATE TABLE "search_terms" (
	"id" bigint PRIMARY KEY NOT NULL,
	"term" text NOT NULL,
	"searches" bigint NOT NULL,
	"mainstay_residual" "bytea",
	CONSTRAINT "search_terms_term_unique" UNIQUE("term")
);
--> statement-breakpoint
CREATE TABLE "session_snapshots" (
	"id" uuid PRIMARY KEY NOT NULL,
	"user_id" uuid NOT NULL,
	"city" text NOT NULL,
	"location" "point" NOT NULL,
	"pages" text[] NOT NULL,
	"taken_at" timestamp (3) with time zone NOT NULL,
	"mainstay_residual" "bytea"
);
--> statement-breakpoint
ALTER TABLE "order_lines" ADD CONSTRAINT "order_lines_order_id_orders_id_fk" FOREIGN KEY ("order_id") REFERENCES "public"."orders"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "price_history" ADD CONSTRAINT "price_history_category_id_categories_id_fk" FOREIGN KEY ("category_id") REFERENCES "public"."categories"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "session_snapshots" ADD CONSTRAINT "session_snapshots_user_id_users_id_fk" FOREIGN KEY ("user_id") REFERENCES "public"."users"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "event_log_level_at" ON "event_log" USING btree ("level","at" DESC NULLS LAST);--> statement-breakpoint
CREATE INDEX "price_history_category_id_at" ON "price_history" USING btree ("category_id","at");--> statement-breakpoint
CREATE INDEX "search_terms_searches" ON "search_terms" USING btree ("searches" DESC NULLS LAST);--> statement-breakpoint
CREATE INDEX "session_snapshots_location" ON "session_snapshots" USING gist ("location");--> statement-breakpoint
CREATE VIEW "public"."active_sellers" AS (select "id", "display_name", "rating_average", "response_bias", "completed", "level_id", "created_at" from "users" where "users"."role" = 'seller' and "users"."status" = 'active');