-- +goose Up

-- Ids, paths and names sort by their bytes (collate "C"), as they do in Go: pages of lists rely on it.

create table device (
	id text collate "C" primary key,
	label text not null,
	type text not null,
	attributes jsonb not null default '{}',
	state text not null check (state in ('pending', 'active', 'disabled')),
	expected_interval_ms bigint not null default 0, -- 0: learned
	last_seen timestamptz,
	created_at timestamptz not null default now(),
	updated_at timestamptz not null default now()
);

create table credential (
	id text collate "C" primary key,
	device text collate "C" not null references device on delete cascade,
	kind text not null check (kind in ('token', 'x509')),
	hint text not null,
	hash bytea not null, -- SHA-256 of the token or the certificate
	created_at timestamptz not null default now(),
	expires timestamptz,
	unique (kind, hash)
);
create index on credential (device);

-- A group of devices. The empty path is the whole site and has no row.
create table device_group (
	path text collate "C" primary key check (path <> ''),
	label text not null,
	tick_ms bigint not null default 0, -- 0: the default
	created_at timestamptz not null default now()
);

create table member (
	device text collate "C" not null references device on delete cascade,
	path text collate "C" not null references device_group on delete cascade,
	primary key (device, path)
);
create index on member (path);

-- Defaults of all series of one name.
create table metric (
	name text collate "C" primary key,
	label text not null default '',
	unit text not null default '',
	low float8,
	high float8
);

-- Empty and null settings come from the metric or the device.
create table series (
	device text collate "C" not null references device on delete cascade,
	metric text collate "C" not null,
	kind smallint not null, -- devices.Kind
	label text not null default '',
	unit text not null default '',
	low float8,
	high float8,
	expected_interval_ms bigint not null default 0,
	created_at timestamptz not null default now(),
	primary key (device, metric)
);

-- The newest sample of a series. Room in the pages lets updates stay in place.
create table last_value (
	device text collate "C" not null,
	metric text collate "C" not null,
	kind smallint not null,
	quality smallint not null,
	at bigint not null,   -- Unix milliseconds
	recv bigint not null, -- Unix milliseconds
	value float8 not null,
	lon float8 not null,
	text text not null,
	primary key (device, metric),
	foreign key (device, metric) references series on delete cascade
) with (fillfactor = 60);

-- How far a reader of the spine has come, written together with what it made of the samples up to there.
create table stream_position (
	reader text primary key,
	stream text not null, -- which life of the stream: a position means nothing in another
	seq bigint not null
);

create table site_user (
	id text collate "C" primary key,
	email text collate "C" not null unique, -- lower case
	name text not null,
	password_hash text not null, -- argon2id in PHC format
	disabled boolean not null default false,
	created_at timestamptz not null default now(),
	last_login timestamptz
);

create table api_token (
	id text collate "C" primary key,
	name text not null,
	role text not null,
	path text collate "C" not null,
	hint text not null,
	hash bytea not null unique, -- SHA-256 of the secret
	hidden boolean not null default false, -- given on the command line: not managed in the UI
	created_at timestamptz not null default now(),
	created_by text not null,
	expires timestamptz,
	last_used timestamptz
);

-- Who has which role on which path and below; the empty path is the whole site.
create table role_binding (
	id text collate "C" primary key,
	user_id text collate "C" references site_user on delete cascade,
	token_id text collate "C" references api_token on delete cascade,
	path text collate "C" not null,
	role text not null check (role in ('viewer', 'operator', 'editor', 'admin', 'ingest')),
	created_at timestamptz not null default now(),
	check ((user_id is null) <> (token_id is null))
);
create unique index on role_binding (coalesce(user_id, ''), coalesce(token_id, ''), path, role);
create index on role_binding (path);

create table session (
	hash bytea primary key, -- SHA-256 of the cookie's value
	user_id text collate "C" not null references site_user on delete cascade,
	csrf text not null,
	created_at timestamptz not null,
	expires timestamptz not null,
	ip text not null,
	agent text not null
);
create index on session (user_id);
create index on session (expires);

create table audit (
	id bigint generated always as identity primary key,
	at timestamptz not null default now(),
	actor text not null,
	actor_kind text not null,
	actor_id text not null,
	ip text not null,
	action text not null, -- noun.verb
	object text not null,
	detail jsonb not null default '{}'
);
create index on audit (object, id);
create index on audit (actor, id);

-- +goose StatementBegin
create function audit_is_append_only() returns trigger language plpgsql as $$
begin
	raise exception 'audit entries are never changed or deleted';
end
$$;
-- +goose StatementEnd

create trigger audit_is_append_only before update or delete or truncate on audit
	for each statement execute function audit_is_append_only();
