package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/devices/postgres/local"
	"millrace/migrations"
)

// database is PostgreSQL: the private server, or one that was given.
type database struct {
	pool  *pgxpool.Pool
	local *local.Server // nil: somebody else's
	where string        // "private", or host and database without credentials
}

// openDatabase is connectDatabase, and brings the database to this version's schema.
func openDatabase(ctx context.Context, s Storage, log *slog.Logger) (*database, error) {
	d, err := connectDatabase(ctx, s, log)
	if err != nil {
		return nil, err
	}
	if err := migrations.Up(ctx, d.pool); err != nil {
		return nil, errors.Join(fmt.Errorf("database %s: %w", d.where, err), d.close())
	}
	return d, nil
}

// connectDatabase starts the private server, or waits for the one that was given. The caller runs local, and closes.
func connectDatabase(ctx context.Context, s Storage, log *slog.Logger) (_ *database, err error) {
	d := &database{where: "private"}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	address := s.DatabaseURL
	if address == "" {
		dir, err := s.dir("postgres")
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if d.local, err = local.Start(ctx, local.Config{Dir: dir, BinDir: s.PostgresBin, Log: log}); err != nil {
			return nil, fmt.Errorf("private PostgreSQL in %s: %w", dir, err)
		}
		log.Info("private PostgreSQL is up", "version", d.local.Version(), "dir", dir, "after", time.Since(began).Round(time.Millisecond))
		address = d.local.URL()
	}
	conf, err := pgxpool.ParseConfig(address)
	if err != nil {
		return nil, errors.New("--database-url can't be read; it looks like postgres://user:password@host:5432/database") // err may hold the password
	}
	if d.local == nil {
		d.where = fmt.Sprintf("%s:%d/%s", conf.ConnConfig.Host, conf.ConnConfig.Port, conf.ConnConfig.Database)
	}
	if !strings.Contains(address, "pool_max_conns") {
		conf.MaxConns = 8
	}
	conf.ConnConfig.ConnectTimeout = 5 * time.Second
	if conf.ConnConfig.RuntimeParams["application_name"] == "" {
		conf.ConnConfig.RuntimeParams["application_name"] = "millrace"
	}
	if d.pool, err = pgxpool.NewWithConfig(ctx, conf); err != nil {
		return nil, fmt.Errorf("database %s: %w", d.where, err)
	}
	if err := d.await(ctx, log); err != nil {
		return nil, err
	}
	return d, nil
}

// await waits until the database answers. What waiting can't mend (a wrong password, no such database) is an error at once.
func (d *database) await(ctx context.Context, log *slog.Logger) error {
	pause := 200 * time.Millisecond
	for n := 0; ; n++ {
		err := d.pool.Ping(ctx)
		if err == nil {
			return nil
		}
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && (pg.Code[:2] == "28" || pg.Code[:2] == "3D") { // authorization, no such database
			return fmt.Errorf("database %s: %s", d.where, pg.Message)
		}
		if n%10 == 0 && ctx.Err() == nil {
			log.Warn("waiting for the database", "database", d.where, "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(pause*3/2, 3*time.Second)
	}
}

// close ends the connections and, unless Run of the private server has done so, the server.
func (d *database) close() error {
	if d.pool != nil {
		d.pool.Close()
	}
	if d.local != nil {
		return d.local.Close()
	}
	return nil
}
