// Package history keeps every sample of the spine in PostgreSQL, for a few bytes each, and answers what was when.
package history

import (
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/devices/catalog"
)

// Config are the settings.
type Config struct {
	Flush     time.Duration `name:"flush" default:"10s" help:"How often recorded samples are written to the database. Longer makes larger, cheaper chunks; queries see what waits."`
	Pending   int           `name:"pending" default:"1000000" help:"Most samples that wait in memory to be written. When the database is away for longer, the spine keeps the rest."`
	Retention time.Duration `name:"retention" default:"0s" help:"How long samples stay unless a group says otherwise, such as 8760h for a year. 0s: for ever."`
}

// Store is recorded history. It is safe for concurrent use.
type Store struct {
	pool    *pgxpool.Pool
	catalog *catalog.Catalog
	c       Config
	log     *slog.Logger
}

// New returns a store over a migrated database. The pool stays the caller's.
func New(pool *pgxpool.Pool, cat *catalog.Catalog, c Config, log *slog.Logger) *Store {
	return &Store{pool: pool, catalog: cat, c: c, log: log}
}
