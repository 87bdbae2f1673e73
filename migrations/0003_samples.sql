-- +goose Up

-- Recorded samples as plain rows, for psql, Grafana and reports: the view samples, and the function of the same name, which reads only the chunks
-- of a range of time. What is decoded here is written by devices/history/chunk, which tells the format. Arrays are filled by queries where no value needs
-- the one before it, and by loops elsewhere: a query takes about half the time of a loop.

-- +goose StatementBegin
-- history_varint is the unsigned number at byte pos; next is the byte after it.
create function history_varint(data bytea, pos int, out v bigint, out next int) language plpgsql immutable strict parallel safe as $$
declare
	b int := get_byte(data, pos);
	shift int := 7;
begin
	next := pos + 1;
	v := b & 127;
	while b > 127 loop
		b := get_byte(data, next);
		next := next + 1;
		v := v | ((b & 127)::bigint << shift);
		shift := shift + 7;
	end loop;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- history_bits gives n numbers of w bits from byte pos on, each as far above lowest. Bit k is in byte k/8, from the least significant on.
create function history_bits(data bytea, pos int, n int, w int, lowest bigint) returns bigint[] language plpgsql immutable strict parallel safe as $$
declare
	mask bigint := case when w < 64 then ~((-1)::bigint << w) else -1 end;
begin
	if n < 1 then
		return '{}';
	elsif w = 0 then
		return array_fill(lowest, array[n]);
	elsif w > 64 or pos + (n::bigint * w + 7) / 8 > length(data) then
		raise exception 'corrupt chunk: % numbers of % bits', n, w;
	end if;
	data := substr(data, pos + 1, (n * w + 7) / 8) || '\x0000000000000000'::bytea; -- as we read beyond the end
	if w <= 9 then
		return array(select lowest + (((get_byte(data, k >> 3) | (get_byte(data, (k >> 3) + 1) << 8)) >> (k & 7)) & mask::int)
			from generate_series(0, (n - 1) * w, w) k);
	elsif w <= 25 then
		return array(select lowest + (((get_byte(data, k >> 3) | (get_byte(data, (k >> 3) + 1) << 8) | (get_byte(data, (k >> 3) + 2) << 16)
				| (get_byte(data, (k >> 3) + 3) << 24)) >> (k & 7)) & mask::int)
			from generate_series(0, (n - 1) * w, w) k);
	end if;
	-- Nine bytes hold the 64 bits from any bit on: of the first eight those from it on, and what the ninth adds above.
	return array(select lowest + (((((
				(get_byte(data, k >> 3) | (get_byte(data, (k >> 3) + 1) << 8) | (get_byte(data, (k >> 3) + 2) << 16))::bigint
				| ((get_byte(data, (k >> 3) + 3) | (get_byte(data, (k >> 3) + 4) << 8) | (get_byte(data, (k >> 3) + 5) << 16))::bigint << 24)
				| ((get_byte(data, (k >> 3) + 6) | (get_byte(data, (k >> 3) + 7) << 8))::bigint << 48)
			) >> (k & 7)) & ~((-2)::bigint << (63 - (k & 7))))
			| ((get_byte(data, (k >> 3) + 8)::bigint << 1) << (63 - (k & 7)))) & mask)
		from generate_series(0, (n - 1) * w, w) k);
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- history_integers reads a stream of n integers from byte pos on; next is the byte after it.
create function history_integers(data bytea, pos int, n int, out vals bigint[], out next int) language plpgsql immutable strict parallel safe as $$
declare
	head int;
	mode int;
	ord int;
	rest int; -- values that are differences
	b int;
	u bigint;
	v bigint;
	at int;
	shift int;
	width int;
begin
	next := pos;
	vals := '{}';
	if n < 1 then
		return;
	end if;
	head := get_byte(data, next);
	next := next + 1;
	mode := head & 7;
	ord := head >> 3;
	rest := n - ord;
	if mode > 3 or ord > 2 or rest < 1 then
		raise exception 'corrupt chunk: stream % of % values', head, n;
	end if;
	-- The first values, and then what the mode has in varints: the constant, the least, or the number of runs.
	for k in 1 .. ord + case when mode = 1 then rest else 1 end loop
		b := get_byte(data, next);
		next := next + 1;
		if b < 128 then
			u := b;
			vals[k] := (b >> 1) # -(b & 1);
		else
			u := b & 127;
			shift := 7;
			loop
				b := get_byte(data, next);
				next := next + 1;
				u := u | ((b & 127)::bigint << shift);
				exit when b < 128;
				shift := shift + 7;
			end loop;
			vals[k] := ((u >> 1) & 9223372036854775807) # -(u & 1);
		end if;
	end loop;
	if mode = 0 then
		v := vals[ord + 1];
		if ord = 0 then
			vals := array_fill(v, array[n]);
		elsif ord = 1 then -- regular times, counters
			u := vals[1];
			vals := array(select u + i * v from generate_series(0, n - 1) i);
			return;
		else
			vals := vals[1:2] || array_fill(v, array[rest]);
		end if;
	elsif mode = 2 then
		width := get_byte(data, next);
		v := vals[ord + 1];
		if ord = 0 then
			vals := history_bits(data, next + 1, rest, width, v);
		else
			vals := vals[1:ord] || history_bits(data, next + 1, rest, width, v);
		end if;
		next := next + 1 + (rest * width + 7) / 8;
	elsif mode = 3 then
		at := ord + 1;
		for r in 1 .. u loop
			select h.v, h.next into u, next from history_varint(data, next) h;
			v := ((u >> 1) & 9223372036854775807) # -(u & 1);
			select h.v, h.next into u, next from history_varint(data, next) h;
			if u > n - at + 1 then
				raise exception 'corrupt chunk: a run of % values', u;
			end if;
			for k in at .. at + u - 1 loop
				vals[k] := v;
			end loop;
			at := at + u;
		end loop;
		if at <> n + 1 then
			raise exception 'corrupt chunk: runs of % values', at - 1;
		end if;
	end if;
	for k in reverse ord .. 1 loop
		v := vals[k];
		for i in k + 1 .. n loop
			v := v + vals[i];
			vals[i] := v;
		end loop;
	end loop;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- history_floats reads a column of n floats from byte pos on.
create function history_floats(data bytea, pos int, n int, out vals float8[], out next int) language plpgsql immutable strict parallel safe as $$
declare
	mode int := get_byte(data, pos);
	ints bigint[];
	x bigint := 0;
	width int;
	shift int;
	divisor float8;
begin
	if mode <= 15 then
		select h.vals, h.next into ints, next from history_integers(data, pos + 1, n) h;
		if mode = 0 then
			vals := ints::float8[];
		else
			divisor := ('1e' || mode)::float8;
			vals := array(select i / divisor from unnest(ints) i);
		end if;
		return;
	elsif mode <> 16 then
		raise exception 'corrupt chunk: floats of mode %', mode;
	end if;
	for k in reverse 7 .. 0 loop
		x := (x << 8) | get_byte(data, pos + 1 + k);
	end loop;
	width := get_byte(data, pos + 10);
	shift := 64 - get_byte(data, pos + 9) - width;
	ints := x || history_bits(data, pos + 11, n - 1, width, 0);
	next := pos + 11 + ((n - 1) * width + 7) / 8;
	for k in 2 .. n loop
		x := x # (ints[k] << shift);
		ints[k] := x;
	end loop;
	-- The numbers of which these are the bits (IEEE 754, 3.4): all factors are exact, also those below the least normal number.
	vals := array(select case when i < 0 then -1::float8 else 1::float8 end
			* ((i & 4503599627370495) + case when (i >> 52) & 2047 = 0 then 0 else 4503599627370496 end)::float8
			* power(2::float8, greatest(((i >> 52) & 2047)::int, 1) - 1075)
		from unnest(ints) i);
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- history_decode gives the samples of a chunk. at is in Unix milliseconds; value is null of a string, text of anything else, lon of what is no location.
create function history_decode(data bytea, kind smallint, start bigint, n int)
	returns table (at bigint, value float8, lon float8, text text, quality smallint) language plpgsql immutable strict parallel safe cost 10000 rows 500 as $$
declare
	pos int := 2;
	times bigint[];
	qualities bigint[];
	places bigint[];
	dictionary text[] := '{}';
	vals float8[];
	lons float8[];
	texts text[];
	t bigint := start;
	len bigint;
	entries bigint;
begin
	data := data || ''::bytea; -- else each look into one that is stored out of line would fetch it again
	if get_byte(data, 0) <> 1 then
		raise exception 'chunk of version %', get_byte(data, 0) using hint = 'It was written by a newer Millrace.';
	end if;
	if n = 1 then
		times := array[start];
	elsif get_byte(data, pos) = 0 then -- all as far apart
		select h.vals[1], h.next into t, pos from history_integers(data, pos, 1) h;
		times := array(select start + i * t from generate_series(0, n - 1) i);
	else
		select start || h.vals, h.next into times, pos from history_integers(data, pos, n - 1) h;
		for k in 2 .. n loop
			t := t + times[k];
			times[k] := t;
		end loop;
	end if;
	if get_byte(data, 1) & 1 = 1 then
		select h.vals, h.next into qualities, pos from history_integers(data, pos, n) h;
	end if;
	if kind = 3 then
		select h.v, h.next into entries, pos from history_varint(data, pos) h;
		for k in 1 .. entries loop
			select h.v, h.next into len, pos from history_varint(data, pos) h;
			dictionary[k] := convert_from(substr(data, pos + 1, len::int), 'UTF8');
			pos := pos + len;
		end loop;
		select h.vals into places from history_integers(data, pos, n) h;
		texts := array(select dictionary[i + 1] from unnest(places) i);
	else
		select h.vals, h.next into vals, pos from history_floats(data, pos, n) h;
		if kind = 4 then
			select h.vals into lons from history_floats(data, pos, n) h;
		end if;
	end if;
	return query select u.t, u.v, u.lon, u.text, coalesce(u.q, 0)::smallint from unnest(times, vals, lons, texts, qualities) as u (t, v, lon, text, q);
end
$$;
-- +goose StatementEnd

-- history_time is a time in Unix milliseconds, as far as PostgreSQL knows such times.
create function history_time(at bigint) returns timestamptz language sql immutable parallel safe as $$
	select to_timestamp(case when at < -210866803200000 then '-infinity' when at > 9224318015999999 then 'infinity' else at / 1000::float8 end)
$$;

-- One row a sample. A condition on device and metric reads only their chunks; one on time reads them all nevertheless: for that there is the function.
-- Whether a chunk overlaps another is told by those before and after it in the order of start; only where they do, samples are sorted, and of those of the
-- same time the one of the later flush is right.
create view samples as
	with c as not materialized (
		select s.device, s.metric, c.start, c.flush, c.n, c.kind, c.data,
			coalesce(max(c.start + c.span) over before >= c.start or lead(c.start) over ordered <= c.start + c.span, false) as overlaps
		from history_series s
		join history_chunk c on c.series = s.id
		window ordered as (partition by s.device, s.metric order by c.start, c.flush),
			before as (partition by s.device, s.metric order by c.start, c.flush rows between unbounded preceding and 1 preceding)),
	x as not materialized (
		select c.device, c.metric, c.kind, x.* from c cross join lateral history_decode(c.data, c.kind, c.start, c.n) x where not c.overlaps
		union all (
			select distinct on (c.device, c.metric, x.at) c.device, c.metric, c.kind, x.*
			from c cross join lateral history_decode(c.data, c.kind, c.start, c.n) x
			where c.overlaps
			order by c.device, c.metric, x.at, c.flush desc, c.start desc))
	select x.device, x.metric, history_time(x.at) as time, x.value, x.text, x.lon,
		(array['float', 'int', 'bool', 'string', 'location'])[x.kind + 1] as kind, (array['good', 'uncertain', 'bad', 'stale'])[x.quality + 1] as quality
	from x;

-- +goose StatementBegin
-- samples gives what was measured from from_time on and before to_time, in the order of time. No chunk is longer than a day.
create function samples(of_device text, of_metric text, from_time timestamptz, to_time timestamptz)
	returns table ("time" timestamptz, value float8, text text, lon float8, kind text, quality text) language sql stable parallel safe rows 10000 as $$
	with r as materialized (
		select (select s.id from history_series s where s.device = of_device and s.metric = of_metric) as series,
			ceil(extract(epoch from greatest(from_time, '4713-01-01 BC')) * 1000)::bigint as low,
			ceil(extract(epoch from least(to_time, '294276-12-31')) * 1000)::bigint as high),
	c as materialized (
		select c.start, c.flush, c.n, c.kind, c.data,
			coalesce(max(c.start + c.span) over before >= c.start or lead(c.start) over ordered <= c.start + c.span, false) as overlaps
		from history_chunk c
		where c.series = (select r.series from r) and c.start > (select r.low - 86400000 from r) and c.start < (select r.high from r)
			and c.start + c.span >= (select r.low from r)
		window ordered as (order by c.start, c.flush),
			before as (order by c.start, c.flush rows between unbounded preceding and 1 preceding)),
	x as (
		select c.kind, x.* from c cross join lateral history_decode(c.data, c.kind, c.start, c.n) x where not c.overlaps
		union all (
			select distinct on (x.at) c.kind, x.*
			from c cross join lateral history_decode(c.data, c.kind, c.start, c.n) x
			where c.overlaps
			order by x.at, c.flush desc, c.start desc))
	select history_time(x.at), x.value, x.text, x.lon,
		(array['float', 'int', 'bool', 'string', 'location'])[x.kind + 1], (array['good', 'uncertain', 'bad', 'stale'])[x.quality + 1]
	from x
	where x.at >= (select r.low from r) and x.at < (select r.high from r)
	order by x.at
$$;
-- +goose StatementEnd
