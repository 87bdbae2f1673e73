-- +goose Up

-- Settings of Web PubSub hubs that have any, as JSON (devices/hubs.Settings).
create table webpubsub_hub (
	name     text primary key,
	settings jsonb not null,
	changed  timestamptz not null default now()
);

-- The two access keys. They are kept in clear: they sign tokens.
create table webpubsub_key (
	which   text primary key check (which in ('primary', 'secondary')),
	value   text not null,
	changed timestamptz not null default now()
);

-- Notifications that no event handler took; the newest ten thousand.
create table webpubsub_dead_letter (
	id         bigint generated always as identity primary key,
	at         timestamptz not null,
	hub        text not null,
	connection text not null,
	user_id    text not null,
	event      text not null,
	event_id   text not null,
	url        text not null,
	attempts   integer not null,
	reason     text not null,
	body       bytea not null
);
create index on webpubsub_dead_letter (hub, id);
