CREATE TYPE "public"."user_role" AS ENUM('buyer', 'seller', 'admin');--> statement-breakpoint
CREATE TYPE "public"."user_status" AS ENUM('active', 'pending', 'suspended', 'deleted');--> statement-breakpoint
CREATE TABLE "addresses" (
	"id" uuid PRIMARY KEY NOT NULL,
	"user_id" uuid NOT NULL,
	"is_primary" boolean DEFAULT false NOT NULL,
	"label" text,
	"recipient" text NOT NULL,
	"street" text NOT NULL,
	"city" text NOT NULL,
	"country" text NOT NULL,
	"postal_code" text,
	"location" "point",
	"created_at" timestamp (3) with time zone NOT NULL,
	"updated_at" timestamp (3) with time zone NOT NULL,
	"version" integer DEFAULT 0 NOT NULL,
	"mainstay_residual" "bytea"
);
--> statement-breakpoint
CREATE TABLE "levels" (
	"id" integer PRIMARY KEY NOT NULL,
	"name_en" text NOT NULL,
	"name_fa" text NOT NULL,
	"points_from" jsonb NOT NULL,
	"points_to" jsonb NOT NULL,
	"rule" jsonb,
	"fee_percent" numeric NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"updated_at" timestamp (3) with time zone NOT NULL,
	"version" integer DEFAULT 0 NOT NULL,
	"mainstay_residual" "bytea",
	CONSTRAINT "levels_name_en_unique" UNIQUE("name_en")
);
--> statement-breakpoint
CREATE TABLE "temp_verifications" (
	"id" uuid PRIMARY KEY NOT NULL,
	"user_id" uuid NOT NULL,
	"purpose" text NOT NULL,
	"code_hash" text NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"challenge" "bytea",
	"expires_at" timestamp (3) with time zone NOT NULL,
	"mainstay_residual" "bytea"
);
--> statement-breakpoint
CREATE TABLE "users" (
	"id" uuid PRIMARY KEY NOT NULL,
	"email" text NOT NULL,
	"first_name" text NOT NULL,
	"last_name" text NOT NULL,
	"display_name" text NOT NULL,
	"role" "user_role" NOT NULL,
	"status" "user_status" NOT NULL,
	"google_id" text,
	"password_hash" text,
	"email_verified" boolean DEFAULT false NOT NULL,
	"phone" text,
	"locale" text NOT NULL,
	"birth_date" timestamp (3) with time zone,
	"avatar_url" text,
	"avatar_thumbnail" "bytea",
	"avatar_md5" "bytea",
	"preferences" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"wallet_balance" numeric DEFAULT '0' NOT NULL,
	"wallet_currency" text NOT NULL,
	"wallet_points" bigint DEFAULT 0 NOT NULL,
	"rating_average" double precision,
	"response_bias" double precision,
	"completed" integer DEFAULT 0 NOT NULL,
	"level_id" integer,
	"device_id" uuid,
	"last_login_at" timestamp (3) with time zone,
	"tags" text[] NOT NULL,
	"bio" text,
	"created_at" timestamp (3) with time zone NOT NULL,
	"updated_at" timestamp (3) with time zone NOT NULL,
	"version" integer DEFAULT 0 NOT NULL,
	"mainstay_residual" "bytea",
	CONSTRAINT "users_email_unique" UNIQUE("email")
);
--> statement-breakpoint
ALTER TABLE "addresses" ADD CONSTRAINT "addresses_user_id_users_id_fk" FOREIGN KEY ("user_id") REFERENCES "public"."users"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "temp_verifications" ADD CONSTRAINT "temp_verifications_user_id_users_id_fk" FOREIGN KEY ("user_id") REFERENCES "public"."users"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "users" ADD CONSTRAINT "users_level_id_levels_id_fk" FOREIGN KEY ("level_id") REFERENCES "public"."levels"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "addresses_user_id_is_primary" ON "addresses" USING btree ("user_id","is_primary");--> statement-breakpoint
CREATE INDEX "temp_verifications_expires_at" ON "temp_verifications" USING btree ("expires_at");--> statement-breakpoint
CREATE INDEX "users_google_id" ON "users" USING btree ("google_id") WHERE "users"."google_id" is not null;--> statement-breakpoint
CREATE INDEX "users_role" ON "users" USING btree ("role");--> statement-breakpoint
CREATE INDEX "users_created_at" ON "users" USING btree ("created_at");