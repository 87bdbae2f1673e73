package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices/postgres/backup"
	"millrace/devices/postgres/local"
)

// backupCmd writes a backup.
type backupCmd struct {
	Storage `embed:"" group:"Storage"`
	File    string `arg:"" help:"File to write, such as millrace.tar.zst; - is standard output. One of that name is replaced when the backup is complete."`
	Quiet   bool   `short:"q" help:"Tell nothing but errors."`
}

func (c *backupCmd) Help() string {
	return `The backup is of one moment, and the server may go on meanwhile. It holds the whole database: devices with their credentials, groups, users, API tokens,
rights, audit, last values, and all recorded history. Left out are signed-in browsers. Passwords and tokens are in it as hashes, so keep
it as confidential as the database itself; the file is made readable to its owner only.

Beside it, save settings, TLS files, and what is in the data directory but not in postgres/. See docs/operations.md, "Backup and restore".`
}

func (c *backupCmd) Run(ctx context.Context, con *console) error {
	if f, ok := con.out.(*os.File); c.File == "-" && ok && isTerminal(f) {
		return errors.New("a backup is not for a terminal: name a file, or send standard output into one")
	}
	conn, done, err := c.forReading(ctx, con)
	if err != nil {
		return err
	}
	defer done()
	began := time.Now()
	p := newProgress(con, c.Quiet)
	v, _ := version()
	var head backup.Head
	var end backup.End
	size, err := fillFile(c.File, con.out, func(w io.Writer) (err error) {
		head, end, err = backup.Write(ctx, conn, w, v, p.tell)
		return err
	})
	p.end()
	if err != nil {
		return interrupted(ctx, fmt.Errorf("backup: %w", err))
	}
	rows, raw := end.Sum()
	p.line("backed up %d tables, %d rows, %s in a file of %s, as of %s, in %v", len(head.Tables), rows, inBytes(float64(raw)), inBytes(float64(size)),
		head.Made.Local().Format(time.DateTime), time.Since(began).Round(10*time.Millisecond))
	return nil
}

// interrupted is err, or what ended ctx.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// forReading connects to the database as it is, without bringing it to this version's schema: a backup comes before that. The private server
// is reached through its socket when a server runs, and started for the moment when none does.
func (s Storage) forReading(ctx context.Context, con *console) (_ *pgx.Conn, _ func(), err error) {
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
	var conf *pgx.ConnConfig
	address, running := "", false
	if s.DatabaseURL == "" {
		dir, err := s.dir("postgres")
		if err != nil {
			return nil, nil, err
		}
		if _, err := os.Stat(dir); err != nil {
			return nil, nil, fmt.Errorf("there is no database in %s; name the server's data directory with --data-dir", s.DataDir)
		}
		address, running = local.Running(dir)
	}
	if running {
		if conf, err = pgx.ParseConfig(address); err != nil {
			return nil, nil, err
		}
	} else {
		if s.DatabaseURL == "" {
			lock, err := lockDataDir(s.DataDir)
			if err != nil {
				return nil, nil, err
			}
			closers = append(closers, func() { lock.Close() })
		}
		d, err := connectDatabase(ctx, s, slog.New(slog.NewTextHandler(con.err, &slog.HandlerOptions{Level: slog.LevelWarn})))
		if err != nil {
			return nil, nil, err
		}
		closers = append(closers, func() { d.close() })
		conf = d.pool.Config().ConnConfig
	}
	conn, err := connectAs(ctx, conf, "millrace backup")
	if err != nil {
		return nil, nil, err
	}
	closers = append(closers, func() { conn.Close(context.WithoutCancel(ctx)) })
	return conn, done, nil
}

// connectAs connects under a name of its own.
func connectAs(ctx context.Context, conf *pgx.ConnConfig, name string) (*pgx.Conn, error) {
	conf = conf.Copy()
	conf.RuntimeParams["application_name"] = name
	return pgx.ConnectConfig(ctx, conf)
}

// fillFile lets write fill a file, which gets its name when it is complete and on disk; what is no plain file (a device, a pipe) is written as it
// is, and - is out. It returns the bytes written.
func fillFile(name string, out io.Writer, write func(io.Writer) error) (size int64, err error) {
	if name == "-" {
		c := &counted{w: out}
		return c.flush(write)
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		if info.IsDir() {
			return 0, fmt.Errorf("%s is a directory; name a file in it", name)
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return 0, err
		}
		size, err := (&counted{w: f}).flush(write)
		return size, errors.Join(err, f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".unfinished-*") // mode 0600
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
			os.Remove(f.Name())
		}
	}()
	if size, err = (&counted{w: f}).flush(write); err != nil {
		return size, err
	}
	if err = f.Sync(); err != nil {
		return size, err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return size, err
	}
	if err = f.Close(); err != nil {
		return size, err
	}
	if dir, err := os.Open(filepath.Dir(name)); err == nil {
		_ = dir.Sync() // not every file system can
		dir.Close()
	}
	return size, nil
}

// counted counts bytes.
type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// flush runs write on a buffer before w.
func (c *counted) flush(write func(io.Writer) error) (int64, error) {
	b := bufio.NewWriterSize(c, 256<<10)
	err := write(b)
	if err == nil {
		err = b.Flush()
	}
	return c.n, err
}

// progress shows how far tables have come: on a terminal a line that changes, else a line for each table, and one now and then within long ones.
type progress struct {
	con   *console
	tty   bool
	quiet bool
	began time.Time
	shown time.Time
	table string
	since time.Time // when the table began
	drawn bool
}

func newProgress(con *console, quiet bool) *progress {
	f, ok := con.err.(*os.File)
	return &progress{con: con, tty: ok && isTerminal(f), quiet: quiet, began: time.Now(), shown: time.Now()}
}

func (p *progress) tell(table string, number, tables int, rows, raw int64, done bool) {
	now := time.Now()
	if table != p.table {
		p.table, p.since = table, now
	}
	every := 10 * time.Second
	if p.tty {
		every = 100 * time.Millisecond
	}
	if p.quiet || !done && now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	line := fmt.Sprintf("%2d of %d  %-22s %12d rows  %9s", number, tables, table, rows, inBytes(float64(raw)))
	if took := now.Sub(p.since).Seconds(); took > 0.5 {
		line += fmt.Sprintf("  %9s/s", inBytes(float64(raw)/took))
	}
	switch {
	case !p.tty:
		fmt.Fprintln(p.con.err, line)
	case done:
		fmt.Fprintf(p.con.err, "\r\x1b[K%s\n", line)
	default:
		fmt.Fprintf(p.con.err, "\r\x1b[K%s", line)
	}
	p.drawn = p.tty && !done
}

// end leaves an unfinished line.
func (p *progress) end() {
	if p.drawn {
		fmt.Fprintln(p.con.err)
		p.drawn = false
	}
}

func (p *progress) line(format string, args ...any) {
	if !p.quiet {
		fmt.Fprintf(p.con.err, format+"\n", args...)
	}
}

// inBytes writes a number of bytes for people.
func inBytes(n float64) string {
	for _, unit := range []string{"B", "kB", "MB", "GB"} {
		if n < 1000 {
			if unit == "B" || n >= 100 {
				return fmt.Sprintf("%.0f %s", n, unit)
			}
			return fmt.Sprintf("%.1f %s", n, unit)
		}
		n /= 1000
	}
	return fmt.Sprintf("%.2f TB", n)
}
