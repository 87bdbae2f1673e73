package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices/postgres/backup"
)

// restoreCmd reads a backup.
type restoreCmd struct {
	Storage `embed:"" group:"Storage"`
	File    string `arg:"" help:"File to read; - is standard input."`
	Check   bool   `help:"Read the file to its end and compare it with its checksums. Nothing is changed, and no database is needed."`
	Replace bool   `help:"Delete what is in the database. Without it the database must be empty."`
	Yes     bool   `short:"y" help:"Don't ask before something is deleted."`
	Quiet   bool   `short:"q" help:"Tell nothing but errors."`
}

func (c *restoreCmd) Help() string {
	return `The server must be stopped. All is restored or nothing: when the file is damaged, or the machine stops in the middle, the database is what it was before.
A backup of an older Millrace is brought to this one's schema.

The spine, which is not in the backup, is read from where it had been recorded up to when the backup was made: samples that came later and that it still
holds are recorded again, once each. See docs/operations.md, "Backup and restore".`
}

func (c *restoreCmd) Run(ctx context.Context, con *console) error {
	in, name := os.Stdin, c.File
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	} else if isTerminal(in) {
		return errors.New("a backup is expected on standard input, not a terminal")
	} else {
		name = "standard input"
	}
	a, err := backup.Open(bufio.NewReaderSize(in, 256<<10))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer a.Close()
	p := newProgress(con, c.Quiet)
	h := &a.Head
	p.line("backup of %s by Millrace %s, schema %d, PostgreSQL %s, %d tables", h.Made.Local().Format(time.DateTime), h.Program, h.Schema, h.PostgreSQL, len(h.Tables))
	end, err := c.read(ctx, con, a, p)
	p.end()
	if err != nil {
		if errors.Is(err, backup.ErrDamaged) && !c.Check {
			err = fmt.Errorf("%w; nothing was changed", err)
		}
		return interrupted(ctx, fmt.Errorf("%s: %w", name, err))
	}
	rows, raw := end.Sum()
	did := "restored"
	if c.Check {
		did = "the file is whole:"
	}
	p.line("%s %d tables, %d rows, %s, in %v", did, len(h.Tables), rows, inBytes(float64(raw)), time.Since(p.began).Round(10*time.Millisecond))
	return nil
}

func (c *restoreCmd) read(ctx context.Context, con *console, a *backup.Archive, p *progress) (backup.End, error) {
	if c.Check {
		return a.Check(ctx, p.tell)
	}
	conn, done, err := c.forReplacing(ctx, con)
	if err != nil {
		return backup.End{}, err
	}
	defer done()
	there, err := backup.Contents(ctx, conn)
	if err != nil {
		return backup.End{}, err
	}
	if len(there) > 0 {
		if !c.Replace {
			return backup.End{}, fmt.Errorf("%w, it has %s: give another --data-dir or --database-url, or --replace to delete what is there", backup.ErrNotEmpty, strings.Join(there, ", "))
		}
		if err := c.confirm(con, there); err != nil {
			return backup.End{}, err
		}
	}
	end, err := a.Restore(ctx, conn, c.Replace, p.tell)
	if err != nil {
		return end, err
	}
	if err := backup.Analyze(ctx, conn); err != nil { // PostgreSQL does it by itself, later
		fmt.Fprintln(con.err, "millrace: restored, but without statistics for now:", err)
	}
	return end, nil
}

// confirm asks whether what is there may go.
func (c *restoreCmd) confirm(con *console, there []string) error {
	if c.Yes {
		return nil
	}
	if c.File == "-" || !isTerminal(os.Stdin) {
		return errors.New("--replace deletes what is in the database; give --yes as well, as nobody can be asked here")
	}
	fmt.Fprintf(con.err, "This deletes what is in the database: %s.\nType yes to go on: ", strings.Join(there, ", "))
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(answer) != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

// othersAtWork are the servers that are connected to the database.
const othersAtWork = `select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and application_name = 'millrace'`

// forReplacing connects to a database that no server uses, brought to this version's schema.
func (s Storage) forReplacing(ctx context.Context, con *console) (_ *pgx.Conn, _ func(), err error) {
	var closers []func()
	done := func() {
		for i := range closers {
			closers[len(closers)-1-i]()
		}
	}
	defer func() {
		if err != nil {
			done()
		}
	}()
	if s.DatabaseURL == "" {
		if err := s.make(); err != nil {
			return nil, nil, err
		}
		lock, err := lockDataDir(s.DataDir)
		if err != nil {
			return nil, nil, err
		}
		closers = append(closers, func() { lock.Close() })
	}
	d, err := openDatabase(ctx, s, slog.New(slog.NewTextHandler(con.err, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		return nil, nil, err
	}
	closers = append(closers, func() { d.close() })
	conn, err := connectAs(ctx, d.pool.Config().ConnConfig, "millrace restore")
	if err != nil {
		return nil, nil, err
	}
	closers = append(closers, func() { conn.Close(context.WithoutCancel(ctx)) })
	d.pool.Close() // ours must not be taken for a server's
	for limit := time.Now().Add(3 * time.Second); ; {
		var others int
		if err := conn.QueryRow(ctx, othersAtWork).Scan(&others); err != nil {
			return nil, nil, err
		}
		if others == 0 {
			return conn, done, nil
		}
		if time.Now().After(limit) {
			return nil, nil, fmt.Errorf("a server uses the database %s (%d connections): stop it first", d.where, others)
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
