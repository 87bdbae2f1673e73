// Package local starts the private PostgreSQL of a Millrace that was given no database: a cluster in its data directory, run as
// a child process that listens on a Unix socket only. It never runs as root, survives crashes of either side without a manual
// step, and never wipes data.
//
// Below Config.Dir lie cluster (PGDATA), socket, log (PostgreSQL's own messages) and lock (held while a Server exists).
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config says where the cluster is and with what it is run.
type Config struct {
	Dir      string            // made if it is missing
	BinDir   string            // of initdb and postgres; empty: looked for
	Log      *slog.Logger      // nil: none
	Settings map[string]string // of PostgreSQL, over ours
}

// What may keep the private PostgreSQL from starting.
var (
	ErrLocked     = errors.New("another Millrace uses this data directory")
	ErrVersion    = errors.New("the data directory needs another version of PostgreSQL")
	ErrNoBinaries = errors.New("no PostgreSQL server found")
)

// Time we give the server.
const (
	startTimeout = 60 * time.Second // crash recovery included
	stopTimeout  = 30 * time.Second // SIGINT to exit; then SIGQUIT
	quitTimeout  = 5 * time.Second  // SIGQUIT to exit; then SIGKILL
	steady       = 10 * time.Second // having run for so long, it starts again after the shortest pause
	minBackoff   = 100 * time.Millisecond
	maxBackoff   = 10 * time.Second

	maxKilledBackoff = time.Second
)

// Server is a running private PostgreSQL.
type Server struct {
	dir, bin, version string
	socket            string // directory
	identity          identity
	args              []string
	log               *slog.Logger
	lock              *os.File

	mu      sync.Mutex
	current *process // never nil after Start
	closed  bool
}

// Start finds the binaries, makes the cluster when there is none, ends a postmaster that an earlier Millrace left behind, and
// returns once the server takes connections. The caller then calls Run, or Close.
func Start(ctx context.Context, c Config) (_ *Server, err error) {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("private postgres: %w", err)
	}
	s := &Server{dir: dir, log: c.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			s.unlock()
			err = fmt.Errorf("private postgres in %s: %w", dir, err)
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	if s.bin, s.version, err = find(ctx, c.BinDir, s.clusterVersion()); err != nil {
		return nil, err
	}
	if s.identity, err = chooseIdentity(dir, s.cluster()); err != nil {
		return nil, err
	}
	if err := s.identity.own(dir); err != nil {
		return nil, err
	}
	if err := s.initCluster(ctx); err != nil {
		return nil, err
	}
	if s.socket, err = s.makeSocketDir(); err != nil {
		return nil, err
	}
	s.args = s.settings(c.Settings)
	if err := s.endOrphan(ctx); err != nil {
		return nil, err
	}
	if s.current, err = s.launch(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// URL is where to connect, for pgx or libpq.
func (s *Server) URL() string {
	return (&url.URL{
		Scheme:   "postgres",
		User:     url.User(superuser),
		Path:     "/postgres",
		RawQuery: url.Values{"host": {s.socket}, "port": {port}, "sslmode": {"disable"}}.Encode(),
	}).String()
}

// Version is the version of the server, such as "15.14".
func (s *Server) Version() string { return s.version }

// PID is the postmaster's process id.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current.pid
}

// Run watches over the server and starts it again when it dies; it returns after ctx ended and the server has stopped.
func (s *Server) Run(ctx context.Context) error {
	s.watch(ctx, s.launch)
	return s.Close()
}

// watch keeps a server running until ctx ends.
func (s *Server) watch(ctx context.Context, launch func(context.Context) (*process, error)) {
	var b backoff
	for {
		s.mu.Lock()
		p := s.current
		s.mu.Unlock()
		ready := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-p.done:
		}
		up := time.Since(ready)
		pause := b.died(up)
		s.log.Warn("private postgres died, starting it again", "err", p.err, "after", up.Round(time.Millisecond), "pause", pause)
		for back := false; !back; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			next, err := launch(ctx)
			if ctx.Err() != nil && err != nil {
				return
			}
			if back = err == nil; back {
				s.mu.Lock()
				s.current = next
				s.mu.Unlock()
				s.log.Info("private postgres is back", "pid", next.pid)
				continue
			}
			pause = b.failed(err)
			s.log.Error("private postgres does not start", "err", err, "pause", pause)
		}
	}
}

// backoff is the pause before the next start. It grows while lives are short: to a second when somebody kills the server, further
// when it does not start of its own accord, as nobody has mended that in the meantime.
type backoff struct{ pause time.Duration }

func (b *backoff) grow(limit time.Duration) time.Duration {
	b.pause = max(minBackoff, min(2*b.pause, limit))
	return b.pause
}

// died returns the pause after a server that took connections for so long.
func (b *backoff) died(up time.Duration) time.Duration {
	if up >= steady {
		b.pause = 0
	}
	return b.grow(maxKilledBackoff)
}

// failed returns the pause after a start that came to nothing.
func (b *backoff) failed(err error) time.Duration {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && !exit.Exited() { // by a signal
		return b.grow(maxKilledBackoff)
	}
	return b.grow(maxBackoff)
}

// Close stops the server: open transactions are rolled back, what was committed stays. Run does it by itself. No launch
// may be under way.
func (s *Server) Close() error {
	s.mu.Lock()
	p, closed := s.current, s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	defer s.unlock()
	err := p.stop()
	if filepath.Dir(s.socket) != s.dir {
		os.Remove(s.socket)
	}
	return err
}

// launch starts a postmaster and waits until it takes connections.
func (s *Server) launch(ctx context.Context) (*process, error) {
	deadline := time.Now().Add(startTimeout)
	for {
		p, err := s.spawn(ctx)
		if err == nil {
			return p, nil
		}
		// After a postmaster was killed its children need a moment to notice and let go of the shared memory.
		if ctx.Err() != nil || time.Now().After(deadline) || !strings.Contains(err.Error(), "shared memory block") {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(minBackoff):
		}
	}
}

func (s *Server) spawn(ctx context.Context) (*process, error) {
	s.dropForeignPIDFile()
	logFile, err := s.openLog()
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	from, err := logFile.Seek(0, 2)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), s.args...)
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Env = environment()
	cmd.SysProcAttr = s.identity.attributes()
	cmd.SysProcAttr.Pdeathsig = syscall.SIGINT // fast shutdown
	cmd.SysProcAttr.Setpgid = true             // Ctrl-C in a terminal is for us: intake ends before the database
	p, err := startProcess(cmd)
	if err != nil {
		return nil, err
	}
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-p.done:
			return nil, fmt.Errorf("postgres ended at once (%w); its last words:\n%s", p.err, s.logTail(from))
		case <-ctx.Done():
			p.stop()
			return nil, ctx.Err()
		case <-deadline.C:
			p.stop()
			return nil, fmt.Errorf("postgres takes no connections after %v; its last words:\n%s", startTimeout, s.logTail(from))
		case <-look.C:
			if pid, ready := s.readPIDFile(); ready && pid == p.pid {
				return p, nil
			}
		}
	}
}

const (
	superuser = "millrace"
	port      = "5432" // only the name of the socket
)

// settings are the arguments of postgres: durable, modest in memory.
func (s *Server) settings(over map[string]string) []string {
	all := map[string]string{
		"listen_addresses":        "",
		"port":                    port,
		"unix_socket_directories": s.socket,
		"unix_socket_permissions": "0700",
		"fsync":                   "on",
		"synchronous_commit":      "on",
		"full_page_writes":        "on",
		"max_connections":         "60",
		"shared_buffers":          "96MB",
		"work_mem":                "8MB",
		"maintenance_work_mem":    "48MB",
		"max_wal_size":            "512MB",
		"jit":                     "off",
		"cluster_name":            "millrace",
		"log_checkpoints":         "off",
		"log_line_prefix":         "%m [%p] ",
		"logging_collector":       "off",
		"log_destination":         "stderr",
	}
	maps.Copy(all, over)
	args := []string{"-D", s.cluster()}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		args = append(args, "-c", name+"="+all[name])
	}
	return args
}

func (s *Server) cluster() string { return filepath.Join(s.dir, "cluster") }

// environment is ours without what would change where PostgreSQL looks.
func environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "PG") || strings.HasPrefix(kv, "LC_") || strings.HasPrefix(kv, "LANG") || strings.HasPrefix(kv, "TZ=")
	})
	return append(env, "LC_ALL=C", "TZ=UTC") // messages in English: launch reads one
}
