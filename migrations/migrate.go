// Package migrations brings a database to the schema this version needs. Files are named NNNN_title.sql and go forward
// only; once released they are never changed. What an older node can't live with takes two releases.
package migrations

import (
	"context"
	"embed"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed *.sql
var files embed.FS

// OldestServer is the oldest PostgreSQL taken, as server_version_num.
const OldestServer = 140000

// Up applies what is missing, each file in a transaction. Of several processes that start together one does it and the
// others wait, up to five minutes.
func Up(ctx context.Context, pool *pgxpool.Pool) error {
	var version int
	if err := pool.QueryRow(ctx, "select current_setting('server_version_num')::int").Scan(&version); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if version < OldestServer {
		return fmt.Errorf("migrate: the database server is PostgreSQL %d; at least %d is needed", version/10000, OldestServer/10000)
	}
	p, done, err := provider(pool)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer done()
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// Versions returns the number of the newest file applied to the database, and of the newest there is.
func Versions(ctx context.Context, pool *pgxpool.Pool) (current, newest int64, err error) {
	p, done, err := provider(pool)
	if err != nil {
		return 0, 0, fmt.Errorf("migrate: %w", err)
	}
	defer done()
	if current, newest, err = p.GetVersions(ctx); err != nil {
		return 0, 0, fmt.Errorf("migrate: %w", err)
	}
	return current, newest, nil
}

func provider(pool *pgxpool.Pool) (*goose.Provider, func(), error) {
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300)) // it polls each second
	if err != nil {
		return nil, nil, err
	}
	db := stdlib.OpenDBFromPool(pool)
	p, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	return p, func() { db.Close() }, nil // the pool stays open
}
