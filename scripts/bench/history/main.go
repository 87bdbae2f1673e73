// Command history measures recorded history beside a table of one row a sample, both on the same private PostgreSQL, which it starts in a directory
// of its own and removes afterwards:
//
//	go run ./scripts/bench/history [-series 200] [-only smooth] writing
//	go run ./scripts/bench/history [-series 100] [-days 30] month
//
// writing tells bytes on disk a sample and samples a second of PostgreSQL's processor time, by kinds of values and rates; month, how long both take to
// answer questions about days of 1 Hz. The tables it prints are those of docs/adr. Processor time, unlike time on the clock, is little disturbed by what
// else the machine does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/history"
	"millrace/devices/postgres"
	"millrace/devices/postgres/local"
	"millrace/migrations"
)

const device devices.ID = "bench"

// A bench is a server with a store of history on it.
type bench struct {
	dir     string
	server  *local.Server
	pool    *pgxpool.Pool
	catalog *catalog.Catalog
	store   *history.Store
	writer  *history.Writer // nil: none yet of this store
	seq     uint64          // of the last message that was delivered
}

// open starts the server. The first time it makes what is needed on it.
func (b *bench) open(ctx context.Context) (err error) {
	b.server, err = local.Start(ctx, local.Config{Dir: filepath.Join(b.dir, "postgres")})
	if err != nil {
		return err
	}
	if b.pool, err = pgxpool.New(ctx, b.server.URL()); err != nil {
		return err
	}
	if b.catalog != nil {
		return nil
	}
	if err := migrations.Up(ctx, b.pool); err != nil {
		return err
	}
	inventory := postgres.New(b.pool)
	if _, err := inventory.CreateDevice(ctx, devices.Actor{Name: "bench"}, devices.Device{ID: device, State: devices.Active}, devices.Credential{}); err != nil {
		return err
	}
	b.catalog = catalog.New(catalog.Config{SeriesPerDevice: 100_000}, inventory)
	return b.catalog.Load(ctx)
}

// shut ends the server, if it runs.
func (b *bench) shut() {
	if b.pool != nil {
		b.pool.Close()
	}
	if b.server != nil {
		if err := b.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	b.pool, b.server = nil, nil
}

// record begins anew to record: with a store that knows nothing of what was written before.
func (b *bench) record(context.Context) {
	b.store = history.New(b.pool, b.catalog, history.Config{Flush: 10 * time.Second, Pending: 2_000_000}, slog.New(slog.DiscardHandler))
	b.writer = nil
}

// deliver records samples as one message and one flush.
func (b *bench) deliver(ctx context.Context, samples []devices.Sample) error {
	if b.writer == nil {
		w, position, err := b.store.NewWriter(ctx, "bench", func(uint64) {})
		if err != nil {
			return err
		}
		b.writer, b.seq = w, position
	}
	b.seq++
	b.writer.Deliver(b.seq, samples)
	return b.writer.Flush(ctx)
}

// series is one of the device's.
func (b *bench) series(metric string, k devices.Kind) (devices.SeriesID, error) {
	return b.catalog.Device(device).Series([]byte(metric), k)
}

// exec runs statements, each for itself.
func (b *bench) exec(ctx context.Context, statements ...string) error {
	for _, sql := range statements {
		if _, err := b.pool.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// number runs a query for one number.
func (b *bench) number(ctx context.Context, sql string) (n float64, err error) {
	if err = b.pool.QueryRow(ctx, "select ("+sql+")::float8").Scan(&n); err != nil {
		err = fmt.Errorf("%s: %w", sql, err)
	}
	return n, err
}

// since is how many seconds have passed.
func since(t time.Time) float64 { return time.Since(t).Seconds() }

func main() {
	series := flag.Int("series", 100, "series that are written in turn")
	days := flag.Int("days", 30, "of month")
	only := flag.String("only", "", "of writing only what has this in its name, such as 'smooth' or '10 Hz'")
	flag.Parse()
	if err := run(context.Background(), flag.Arg(0), *series, *days, *only); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, what string, series, days int, only string) error {
	if what != "writing" && what != "month" {
		return errors.New("say what to measure: writing or month")
	}
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // the server never runs as root
		return err
	}
	b := &bench{dir: dir}
	defer b.shut()
	if err := b.open(ctx); err != nil {
		return err
	}
	b.record(ctx)
	if what == "writing" {
		return b.writing(ctx, series, only)
	}
	return b.month(ctx, days, series)
}
