-- Substrings of titles are found by their trigrams. The extension is trusted: whoever may create in the database may install it.
CREATE EXTENSION IF NOT EXISTS pg_trgm;
--> statement-breakpoint
-- What the collection of search terms has in MongoDB: German, blind to case, numbers by their value.
CREATE COLLATION "german_terms" (provider = icu, locale = 'de-u-ks-level2-kn', deterministic = false);
--> statement-breakpoint
ALTER TABLE "search_terms" ALTER COLUMN "term" SET DATA TYPE text COLLATE "german_terms";
