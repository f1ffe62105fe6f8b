select 'it''s', E'a\'b\\', U&"d\0061t" , $x$ ; $y$ $x$ -- ;
'a'
'b;'; /* a /* ; */ b */ select 1--> statement-breakpoint
-- squawk-ignore ban-drop-column, unbounded-write
ALTER TABLE t DROP COLUMN a, ALTER COLUMN b SET DATA TYPE bigint USING b::bigint;
update t set a = 1; set search_path = x; select set_config('search_path', '', false);
