-- +goose Up

-- What is recorded of a series: chunks of samples, one row each (devices/history). Nothing refers to the inventory's tables: a chunk
-- of a series that the inventory has not heard of yet must find room.
create table history_series (
	id int generated always as identity primary key,
	device text collate "C" not null,
	metric text collate "C" not null,
	unique (device, metric)
);

-- Rises with every deletion of a series, so that a writer notices that its ids are old: it reads it for share in each transaction.
create table history_generation (
	n bigint not null
);
insert into history_generation values (0);

-- Series whose chunks are still to be deleted in the background. Their names are gone from history_series already.
create table history_doomed (
	series int primary key
);

-- Numbers what a writer writes in one transaction: where chunks of a series overlap, the later one is right.
create sequence history_flush;

-- Columns are ordered by width, so that no byte is lost to alignment.
create table history_chunk (
	start bigint not null,        -- Unix milliseconds of the first sample
	flush bigint not null,        -- of the newest of its samples
	first float8 not null,        -- over all its samples; of a location the latitude, 0 of a string
	last float8 not null,
	min float8 not null,
	max float8 not null,
	sum float8 not null,
	series int not null,          -- history_series
	span int not null,            -- milliseconds from the first sample to the last
	n int not null,
	kind smallint not null,       -- devices.Kind
	quality smallint not null,    -- devices.Quality, the worst
	fresh bool not null default true,
	data bytea not null           -- devices/history/chunk
) partition by list (fresh);
alter table history_chunk alter column data set storage external; -- it is compressed already
create index on history_chunk (series, start);

-- Where chunks are written, and wait to be compacted. All of it is used again and again: were they among those that stay, a page of
-- the index for each series and hour would be left with the few entries that compaction leaves.
create table history_fresh partition of history_chunk for values in (true)
	with (autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.5);

-- Where they stay.
create table history_packed partition of history_chunk for values in (false) partition by range (start);

-- Times for which there is no partition: from clocks that are wrong by years.
create table history_chunk_other partition of history_packed default;

-- Hours of a series that got samples since they were last compacted.
create table history_dirty (
	series int not null,
	hour int not null, -- hours since 1970
	primary key (series, hour)
) with (autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 1000);

-- Whole hours of series with many chunks an hour. Right only while the hour is not dirty.
create table history_hour (
	first float8 not null,
	last float8 not null,
	min float8 not null,
	max float8 not null,
	sum float8 not null,
	series int not null,
	hour int not null,
	n int not null,
	quality smallint not null,
	primary key (series, hour)
);

-- Chunks that PostgreSQL refused to take as they are.
create table history_parked (
	id bigint generated always as identity primary key,
	at timestamptz not null default now(),
	device text not null,
	metric text not null,
	start bigint not null,
	n int not null,
	kind smallint not null,
	reason text not null,
	data bytea not null
);

-- How long samples stay, in days. Null: as above it, and at the top as the server is told; 0: for ever.
alter table device_group add column retention_days int check (retention_days >= 0);
