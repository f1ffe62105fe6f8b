-- Old rows are looked at after the constraint stands, so that nobody waits for that.
ALTER TABLE "payments" ADD CONSTRAINT "payments_amount" CHECK ("amount_value" >= 0 AND "amount_fee" >= 0) NOT VALID;
--> statement-breakpoint
ALTER TABLE "payments" VALIDATE CONSTRAINT "payments_amount";
--> statement-breakpoint
-- A quote is what was promised: it can be accepted once, and nothing else of it changes; the text below has semicolons of its own.
CREATE FUNCTION "keep_quote"() RETURNS trigger LANGUAGE plpgsql AS $keep$
BEGIN
  IF OLD."accepted_at" IS NOT NULL THEN
    RAISE EXCEPTION 'quote % is accepted; it cannot change', OLD."id" USING ERRCODE = 'check_violation';
  END IF;
  IF (NEW."id", NEW."payment_id", NEW."rate", NEW."base_amount", NEW."quote_amount")
     IS DISTINCT FROM (OLD."id", OLD."payment_id", OLD."rate", OLD."base_amount", OLD."quote_amount") THEN
    RAISE EXCEPTION 'quote % can be accepted, not changed', OLD."id" USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END;
$keep$;
--> statement-breakpoint
CREATE TRIGGER "keep_quote" BEFORE UPDATE ON "payment_quotes" FOR EACH ROW EXECUTE FUNCTION "keep_quote"();
--> statement-breakpoint
COMMENT ON TABLE "payment_quotes" IS 'Written only while ORACLE_QUOTING_ENABLED is on, and only for a payment that is here; not the authority for anything else.';
--> statement-breakpoint
COMMENT ON TABLE "pg_dualwrite_gaps" IS 'Open rows block the cutover of their domain.';
