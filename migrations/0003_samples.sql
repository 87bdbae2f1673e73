-- +goose Up

-- Recorded samples as plain rows, for psql, Grafana and reports: the view samples, and the function of the same name, which reads only the chunks
-- of a range of time. What is decoded here is written by devices/history/chunk.

-- +goose StatementBegin
-- history_integers reads a stream of n integers from byte pos on; next is the byte after it.
create function history_integers(data bytea, pos int, n int, out vals bigint[], out next int) language plpgsql immutable parallel safe as $$
declare
	head int;
	mode int;
	ord int;
	i int := 0;
	j int;
	b int;
	u bigint;
	shift int;
	lowest bigint;
	width int;
	low int;
	acc bigint := 0;
	fill int := 0;
	runs bigint := 0;
	reads int; -- varints to read now
begin
	vals := '{}';
	next := pos;
	if n < 1 then
		return;
	end if;
	head := get_byte(data, next);
	next := next + 1;
	mode := head & 7;
	ord := head >> 3;
	if mode > 3 or ord > 2 or ord >= n then
		raise exception 'corrupt chunk: stream % of % values', head, n;
	end if;
	-- The first values, and then what the mode has in varints: the constant, the least, or the number of runs.
	reads := ord + case when mode = 1 then n - ord else 1 end;
	for k in 1 .. reads loop
		u := 0;
		shift := 0;
		loop
			b := get_byte(data, next);
			next := next + 1;
			u := u | ((b & 127)::bigint << shift);
			exit when b < 128;
			shift := shift + 7;
		end loop;
		i := i + 1;
		if mode = 3 and k = reads then
			runs := u;
			i := i - 1;
		else
			vals[i] := ((u >> 1) & 9223372036854775807) # -(u & 1);
		end if;
	end loop;
	if mode = 0 then
		for k in i + 1 .. n loop
			vals[k] := vals[i];
		end loop;
	elsif mode = 2 then
		lowest := vals[i];
		width := get_byte(data, next);
		next := next + 1;
		low := least(width, 32); -- so many bits are taken first, so that what waits has room in a bigint
		for k in i .. n loop
			while fill < low loop
				acc := acc | (get_byte(data, next)::bigint << fill);
				next := next + 1;
				fill := fill + 8;
			end loop;
			u := acc & ((1::bigint << low) - 1);
			acc := acc >> low;
			fill := fill - low;
			if width > 32 then
				while fill < width - 32 loop
					acc := acc | (get_byte(data, next)::bigint << fill);
					next := next + 1;
					fill := fill + 8;
				end loop;
				u := u | ((acc & ((1::bigint << (width - 32)) - 1)) << 32);
				acc := acc >> (width - 32);
				fill := fill - (width - 32);
			end if;
			vals[k] := lowest + u;
		end loop;
	elsif mode = 3 then
		for r in 1 .. runs loop
			for part in 1 .. 2 loop
				u := 0;
				shift := 0;
				loop
					b := get_byte(data, next);
					next := next + 1;
					u := u | ((b & 127)::bigint << shift);
					exit when b < 128;
					shift := shift + 7;
				end loop;
				if part = 1 then
					lowest := ((u >> 1) & 9223372036854775807) # -(u & 1);
				end if;
			end loop;
			for k in 1 .. u loop
				i := i + 1;
				vals[i] := lowest;
			end loop;
		end loop;
	end if;
	while ord > 0 loop
		for k in ord + 1 .. n loop
			vals[k] := vals[k] + vals[k - 1];
		end loop;
		ord := ord - 1;
	end loop;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- history_float is the number of which these are the bits (IEEE 754, 3.4).
create function history_float(bits bigint) returns float8 language sql immutable parallel safe as $$
	select case when bits < 0 then -1::float8 else 1::float8 end *
		case when (bits >> 52) & 2047 = 0 then (bits & 4503599627370495)::float8 * 4.9406564584124654e-324::float8
		else ((bits & 4503599627370495) + 4503599627370496)::float8 * power(2::float8, ((bits >> 52) & 2047) - 1075) end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- history_floats reads a column of n floats from byte pos on.
create function history_floats(data bytea, pos int, n int, out vals float8[], out next int) language plpgsql immutable parallel safe as $$
declare
	mode int := get_byte(data, pos);
	ints bigint[];
	divisor float8;
	x bigint := 0;
	width int;
	low int;
	shift int;
	u bigint;
	acc bigint := 0;
	fill int := 0;
begin
	vals := '{}';
	next := pos + 1;
	if mode <= 15 then
		divisor := (array[1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15]::float8[])[mode + 1];
		select h.vals, h.next into ints, next from history_integers(data, next, n) h;
		for k in 1 .. n loop
			vals[k] := ints[k]::float8 / divisor;
		end loop;
		return;
	elsif mode <> 16 then
		raise exception 'corrupt chunk: floats of mode %', mode;
	end if;
	for k in 0 .. 7 loop
		x := x | (get_byte(data, next + k)::bigint << (8 * k));
	end loop;
	width := get_byte(data, next + 9);
	shift := 64 - get_byte(data, next + 8) - width;
	next := next + 10;
	low := least(width, 32);
	vals[1] := history_float(x);
	for k in 2 .. n loop
		while fill < low loop
			acc := acc | (get_byte(data, next)::bigint << fill);
			next := next + 1;
			fill := fill + 8;
		end loop;
		u := acc & ((1::bigint << low) - 1);
		acc := acc >> low;
		fill := fill - low;
		if width > 32 then
			while fill < width - 32 loop
				acc := acc | (get_byte(data, next)::bigint << fill);
				next := next + 1;
				fill := fill + 8;
			end loop;
			u := u | ((acc & ((1::bigint << (width - 32)) - 1)) << 32);
			acc := acc >> (width - 32);
			fill := fill - (width - 32);
		end if;
		if u <> 0 then
			x := x # (u << shift);
		end if;
		vals[k] := history_float(x);
	end loop;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- history_decode gives the samples of a chunk. at is in Unix milliseconds; value is null of a string, text of anything else, lon of what is no location.
create function history_decode(data bytea, kind smallint, start bigint, n int)
	returns table (at bigint, value float8, lon float8, text text, quality smallint) language plpgsql immutable parallel safe rows 500 as $$
declare
	pos int := 2;
	steps bigint[];
	times bigint[] := array[start];
	qualities bigint[];
	places bigint[];
	dictionary text[] := '{}';
	vals float8[];
	lons float8[];
	texts text[];
	t bigint := start;
	len int;
	entries int;
	b int;
	shift int;
begin
	if get_byte(data, 0) <> 1 then
		raise exception 'chunk of version %', get_byte(data, 0) using hint = 'It was written by a newer Millrace.';
	end if;
	select h.vals, h.next into steps, pos from history_integers(data, pos, n - 1) h;
	for k in 1 .. n - 1 loop
		t := t + steps[k];
		times[k + 1] := t;
	end loop;
	if get_byte(data, 1) & 1 = 1 then
		select h.vals, h.next into qualities, pos from history_integers(data, pos, n) h;
	end if;
	if kind = 3 then
		entries := -1; -- their number comes first
		loop
			len := 0;
			shift := 0;
			loop
				b := get_byte(data, pos);
				pos := pos + 1;
				len := len | ((b & 127) << shift);
				exit when b < 128;
				shift := shift + 7;
			end loop;
			if entries < 0 then
				entries := len;
			else
				dictionary := dictionary || convert_from(substring(data from pos + 1 for len), 'UTF8');
				pos := pos + len;
				entries := entries - 1;
			end if;
			exit when entries = 0;
		end loop;
		select h.vals, h.next into places, pos from history_integers(data, pos, n) h;
		return query select u.t, null::float8, null::float8, dictionary[u.place + 1], coalesce(u.q, 0)::smallint from unnest(times, places, qualities) as u (t, place, q);
		return;
	end if;
	select h.vals, h.next into vals, pos from history_floats(data, pos, n) h;
	if kind = 4 then
		select h.vals, h.next into lons, pos from history_floats(data, pos, n) h;
	end if;
	return query select u.t, u.v, u.lon, null::text, coalesce(u.q, 0)::smallint from unnest(times, vals, lons, qualities) as u (t, v, lon, q);
end
$$;
-- +goose StatementEnd

-- One row a sample. Where chunks overlap, that of the later flush is right. A condition on device and metric reads only their chunks; one on time reads
-- them all nevertheless: for that there is the function.
create view samples as
	select s.device, s.metric, to_timestamp(x.at / 1000.0) as time, x.value, x.text, x.lon,
		(array['float', 'int', 'bool', 'string', 'location'])[c.kind + 1] as kind, (array['good', 'uncertain', 'bad', 'stale'])[x.quality + 1] as quality
	from history_series s
	join history_chunk c on c.series = s.id
	cross join lateral (select exists (select from history_chunk d where d.series = c.series and d.start > c.start - 86400000 and d.start <= c.start + c.span
		and d.start + d.span >= c.start and d.flush > c.flush) as covered offset 0) o
	cross join lateral history_decode(c.data, c.kind, c.start, c.n) x
	where not o.covered or not exists (
		select from history_chunk d cross join lateral history_decode(d.data, d.kind, d.start, d.n) y
		where d.series = c.series and d.start > x.at - 86400000 and d.start <= x.at and d.start + d.span >= x.at and d.flush > c.flush and y.at = x.at);

-- +goose StatementBegin
-- samples gives what was measured from from_time on and before to_time, in the order of time.
create function samples(of_device text, of_metric text, from_time timestamptz, to_time timestamptz)
	returns table ("time" timestamptz, value float8, text text, lon float8, kind text, quality text) language sql stable parallel safe as $$
	with r as materialized (
		select ceil(extract(epoch from from_time) * 1000)::bigint as low, ceil(extract(epoch from to_time) * 1000)::bigint as high),
	c as materialized (
		select c.*, exists (select from history_chunk d where d.series = c.series and d.start > c.start - 86400000 and d.start <= c.start + c.span
			and d.start + d.span >= c.start and d.flush > c.flush) as covered
		from r cross join history_series s cross join lateral (
			select * from history_chunk c where c.series = s.id and c.start > r.low - 86400000 and c.start < r.high and c.start + c.span >= r.low offset 0) c
		where s.device = of_device and s.metric = of_metric)
	select to_timestamp(x.at / 1000.0), x.value, x.text, x.lon,
		(array['float', 'int', 'bool', 'string', 'location'])[c.kind + 1], (array['good', 'uncertain', 'bad', 'stale'])[x.quality + 1]
	from r cross join c cross join lateral history_decode(c.data, c.kind, c.start, c.n) x
	where x.at >= r.low and x.at < r.high and (not c.covered or not exists (
		select from history_chunk d cross join lateral history_decode(d.data, d.kind, d.start, d.n) y
		where d.series = c.series and d.start > x.at - 86400000 and d.start <= x.at and d.start + d.span >= x.at and d.flush > c.flush and y.at = x.at))
	order by x.at
$$;
-- +goose StatementEnd
