ALTER TABLE "payments" ALTER COLUMN "block_number" SET DATA TYPE bigint;--> statement-breakpoint
ALTER TABLE "purchase_requests" ADD COLUMN "search" "tsvector" GENERATED ALWAYS AS (setweight(to_tsvector('simple', "title"), 'A') || setweight(to_tsvector('simple', "description"), 'B')) STORED;--> statement-breakpoint
CREATE INDEX "purchase_requests_search" ON "purchase_requests" USING gin ("search");--> statement-breakpoint
CREATE INDEX "purchase_requests_title" ON "purchase_requests" USING gin ("title" gin_trgm_ops);