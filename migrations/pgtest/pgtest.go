// Package pgtest gives each test a database of its own, migrated and empty, on a real PostgreSQL.
//
// The server is private (devices/postgres/local), is started by the first test of a test binary that asks, and ends with the
// binary. Its cluster stays in the system's directory for temporary files for the next run; binaries that run at the same
// time take different ones.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"millrace/devices/postgres/local"
	"millrace/migrations"
)

// server is the one of this test binary.
var server struct {
	once  sync.Once
	err   error
	local *local.Server
	admin *pgxpool.Pool // to the database postgres, makes the others
}

const template = "millrace_template"

// Main runs the tests, stops the server and then looks for goroutines left over: for TestMain.
func Main(m *testing.M, ignore ...goleak.Option) {
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(ignore...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// New returns a pool to a fresh, migrated database. Both go when the test ends.
func New(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), URL(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// URL returns where a fresh, migrated database is. It goes when the test ends.
func URL(t testing.TB) string {
	t.Helper()
	return create(t, " template "+template)
}

// Empty returns where a fresh database without any table is. It goes when the test ends.
func Empty(t testing.TB) string {
	t.Helper()
	return create(t, "")
}

// Server returns the server all these databases are on; a test that kills it finds it alive again only if it calls Run.
func Server(t testing.TB) *local.Server {
	t.Helper()
	server.once.Do(func() { server.err = start() })
	if server.err != nil {
		t.Fatal(server.err)
	}
	return server.local
}

func create(t testing.TB, from string) string {
	t.Helper()
	s := Server(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	name := "test_" + strings.ToLower(rand.Text()[:12])
	if _, err := server.admin.Exec(ctx, "create database "+name+from); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := server.admin.Exec(ctx, "drop database "+name+" with (force)"); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return database(s, name)
}

func database(s *local.Server, name string) string {
	u, err := url.Parse(s.URL())
	if err != nil {
		panic(err) // it is ours
	}
	u.Path = "/" + name
	return u.String()
}

func start() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	settings := map[string]string{ // what a crash loses is made again
		"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200", "shared_buffers": "32MB",
	}
	for slot := 0; ; slot++ {
		dir := filepath.Join(os.TempDir(), fmt.Sprintf("millrace-pgtest-%d", os.Getuid()), fmt.Sprint(slot))
		s, err := local.Start(ctx, local.Config{Dir: dir, Settings: settings})
		if errors.Is(err, local.ErrLocked) {
			continue
		}
		if err != nil && ctx.Err() == nil { // a crash without fsync may have spoilt it, or another version made it
			if rmErr := os.RemoveAll(filepath.Join(dir, "cluster")); rmErr != nil {
				return rmErr
			}
			s, err = local.Start(ctx, local.Config{Dir: dir, Settings: settings})
		}
		if err != nil {
			return err
		}
		server.local = s
		if err := prepare(ctx, s); err != nil {
			return errors.Join(err, stop())
		}
		return nil
	}
}

// prepare drops what earlier runs left and makes the template anew.
func prepare(ctx context.Context, s *local.Server) (err error) {
	if server.admin, err = pgxpool.New(ctx, s.URL()); err != nil {
		return err
	}
	rows, _ := server.admin.Query(ctx, "select datname from pg_database where datname like 'test\\_%' or datname = '"+template+"'")
	old, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range old {
		if _, err := server.admin.Exec(ctx, "drop database "+name+" with (force)"); err != nil {
			return err
		}
	}
	if _, err := server.admin.Exec(ctx, "create database "+template); err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, database(s, template))
	if err != nil {
		return err
	}
	defer pool.Close()
	return migrations.Up(ctx, pool)
}

func stop() error {
	if server.admin != nil {
		server.admin.Close()
	}
	if server.local != nil {
		return server.local.Close()
	}
	return nil
}
