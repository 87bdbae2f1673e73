// Package history keeps every sample of the spine in PostgreSQL, for a few bytes each, and answers what was when.
package history

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/devices"
	"millrace/devices/catalog"
)

// Config are the settings.
type Config struct {
	Flush     time.Duration `name:"flush" default:"10s" help:"How often recorded samples are written to the database. Longer makes larger, cheaper chunks; queries see what waits."`
	Pending   int           `name:"pending" default:"1000000" help:"Most samples that wait in memory to be written, some 40 bytes each and 400 for each series; a text counts as one for each 16 bytes. When the database is away for longer, the spine keeps the rest."`
	Retention time.Duration `name:"retention" default:"0s" help:"How long samples stay unless a group says otherwise, such as 8760h for a year. 0s: for ever."`
}

// Validate reports settings that can't be meant. Its errors begin with the setting's name.
func (c *Config) Validate() error {
	switch {
	case c.Flush < 100*time.Millisecond || c.Flush > 10*time.Minute:
		return fmt.Errorf("flush must be between 100ms and 10m")
	case c.Pending < 10_000:
		return fmt.Errorf("pending is below 10000")
	case c.Retention < 0 || c.Retention > 0 && c.Retention < 24*time.Hour:
		return fmt.Errorf("retention must be 0s or at least 24h")
	}
	return nil
}

// Store is recorded history. It is safe for concurrent use.
type Store struct {
	pool    *pgxpool.Pool
	catalog *catalog.Catalog
	c       Config
	log     *slog.Logger

	writer atomic.Pointer[Writer] // nil: nothing is being recorded
	seam   atomic.Pointer[Seam]

	besides chan struct{} // connections that read along with a query's own

	upkeep upkeep
	space  space

	weeks partitions
	ids   struct {
		sync.RWMutex
		disk  []int32 // by SeriesID; 0: not asked yet, or nothing recorded
		times int     // that they were forgotten
	}
}

// A Seam waits until what the live reader had delivered when it was called has been delivered to the Writer, too, or until ctx ends.
type Seam func(ctx context.Context) error

// New returns a store over a migrated database. The pool stays the caller's.
func New(pool *pgxpool.Pool, cat *catalog.Catalog, c Config, log *slog.Logger) *Store {
	if c.Flush <= 0 {
		c.Flush = 10 * time.Second
	}
	if c.Pending <= 0 {
		c.Pending = 1_000_000
	}
	return &Store{pool: pool, catalog: cat, c: c, log: log, space: space{busy: make(chan struct{}, 1)}, besides: make(chan struct{}, besides)}
}

// Follow gives the store what tells it that the Writer is as far as the live reader.
func (s *Store) Follow(wait Seam) { s.seam.Store(&wait) }

// seamWait is the longest that a query waits for the Writer.
const seamWait = 500 * time.Millisecond

// settle waits, for at most seamWait, until the Writer has what the live reader had delivered before the call: what head then
// misses is in the database. Nothing is waited for while the Writer is behind by more than that can mend.
func (s *Store) settle(ctx context.Context) {
	wait, w := s.seam.Load(), s.writer.Load()
	if wait == nil || w == nil || w.Stats().Blocked {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, seamWait)
	defer cancel()
	_ = (*wait)(ctx) // what comes later than that is left out
}

// head is Writer.Head, nothing where nothing is being recorded: for each id its runs. A query copies it before it reads the
// database, so that what moves from the one to the other meanwhile is in both, not in none.
func (s *Store) head(ids []devices.SeriesID, from, to int64) [][]Run {
	if w := s.writer.Load(); w != nil {
		return w.Head(ids, from, to)
	}
	return make([][]Run, len(ids))
}
