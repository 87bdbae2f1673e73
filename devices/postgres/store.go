// Package postgres keeps the inventory in PostgreSQL. Each mutation is one transaction that also writes its audit entry and
// notifies the other processes (catalog.Change over NOTIFY). Methods that fail because the database does not answer
// return devices.ErrUnavailable.
package postgres

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/postgres/pgerr"
)

// Store is the inventory in PostgreSQL. It is safe for concurrent use.
type Store struct {
	pool *pgxpool.Pool
}

// New returns a store over a migrated database. The pool stays the caller's.
func New(pool *pgxpool.Pool) *Store { return &Store{pool} }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return pgerr.Domain(s.pool.Ping(ctx)) }

// mutation is a transaction with what is to be told about it at its end.
type mutation struct {
	pgx.Tx
	by      devices.Actor
	changes []catalog.Change
	entries []entry
}

type entry struct {
	action, object string
	detail         any
}

// audit adds an entry; detail becomes a JSON object, nil an empty one.
func (m *mutation) audit(action, object string, detail any) {
	m.entries = append(m.entries, entry{action, object, detail})
}

func (m *mutation) changed(topic catalog.Topic, ids ...devices.ID) {
	m.changes = append(m.changes, catalog.Change{Topic: topic, Devices: ids})
}

const (
	insertAudit = `insert into audit (actor, actor_kind, actor_id, ip, action, object, detail)
		values (@actor, @kind, @id, @ip, @action, @object, @detail)`
	notify = `select pg_notify('millrace', @payload)`
)

// mutate runs f in a transaction, then writes the audit and the notifications it asked for.
func (s *Store) mutate(ctx context.Context, by devices.Actor, f func(m *mutation) error) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		m := &mutation{Tx: tx, by: by}
		if err := f(m); err != nil {
			return err
		}
		for _, e := range m.entries {
			detail := []byte("{}")
			if e.detail != nil {
				var err error
				if detail, err = json.Marshal(e.detail); err != nil {
					return err
				}
			}
			if _, err := tx.Exec(ctx, insertAudit, pgx.StrictNamedArgs{"actor": by.Name, "kind": string(by.Kind), "id": by.ID, "ip": by.IP,
				"action": e.action, "object": e.object, "detail": detail}); err != nil {
				return err
			}
		}
		for _, ch := range m.changes {
			payload, err := json.Marshal(ch)
			if err != nil {
				return err
			}
			if len(payload) > 7900 { // NOTIFY takes less than 8000 bytes: read all devices, then
				payload, _ = json.Marshal(catalog.Change{Topic: ch.Topic})
			}
			if _, err := tx.Exec(ctx, notify, pgx.StrictNamedArgs{"payload": string(payload)}); err != nil {
				return err
			}
		}
		return nil
	})
}

// newID makes an opaque id of 80 random bits.
func newID() string { return strings.ToLower(rand.Text()[:16]) }

// page cuts the one item too many that was read to know whether there is more.
func page[T any](items []T, size int, cursor func(T) string) devices.List[T] {
	if len(items) > size {
		return devices.List[T]{Items: items[:size], Next: cursor(items[size-1])}
	}
	return devices.List[T]{Items: items}
}

// list runs a query for several rows.
func list[T any](ctx context.Context, q querier, sql string, args pgx.StrictNamedArgs) ([]T, error) {
	rows, _ := q.Query(ctx, sql, args) // its error comes back from rows
	items, err := pgx.CollectRows(rows, pgx.RowToStructByName[T])
	return items, pgerr.Domain(err)
}

// one runs a query for exactly one row; ErrNotFound without.
func one[T any](ctx context.Context, q querier, sql string, args pgx.StrictNamedArgs) (T, error) {
	rows, _ := q.Query(ctx, sql, args) // its error comes back from rows
	item, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
	return item, pgerr.Domain(err)
}

// exec runs a statement; ErrNotFound when it touches no row.
func exec(ctx context.Context, m *mutation, sql string, args pgx.StrictNamedArgs) error {
	tag, err := m.Exec(ctx, sql, args)
	if err == nil && tag.RowsAffected() == 0 {
		err = devices.ErrNotFound
	}
	return err
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func interval(d time.Duration) int64 { return d.Milliseconds() }
