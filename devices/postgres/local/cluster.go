package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// takeLock keeps other processes out of Dir; the kernel lets go of it when we die.
func (s *Server) takeLock() error {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return ErrLocked
		}
		return err
	}
	s.lock = f
	return nil
}

func (s *Server) unlock() {
	if s.lock != nil {
		s.lock.Close()
	}
}

// clusterVersion is the major version that made the cluster; "" when there is none.
func (s *Server) clusterVersion() string {
	v, _ := os.ReadFile(filepath.Join(s.cluster(), "PG_VERSION"))
	return strings.TrimSpace(string(v))
}

// initCluster makes the cluster unless it is there. It is made beside its place and then moved, so that an initdb that was
// killed leaves nothing that looks like one.
func (s *Server) initCluster(ctx context.Context) error {
	if s.clusterVersion() != "" {
		return nil
	}
	if _, err := os.Stat(s.cluster()); err == nil {
		if os.Remove(s.cluster()) != nil { // an empty directory may go
			return fmt.Errorf("%s has no PG_VERSION, so it is no PostgreSQL cluster; move it away", s.cluster())
		}
	}
	runtime.LockOSThread() // Pdeathsig goes by thread
	defer runtime.UnlockOSThread()
	unfinished := s.cluster() + ".new"
	var out []byte
	for _, locale := range []string{"C.UTF-8", "C"} { // not every system has the first
		if err := os.RemoveAll(unfinished); err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "initdb"), "-D", unfinished, "-U", superuser, "-E", "UTF8",
			"--locale="+locale, "-A", "trust", "--data-checksums")
		cmd.Dir, cmd.Env, cmd.SysProcAttr = s.dir, environment(), s.identity.attributes()
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
		var err error
		if out, err = cmd.CombinedOutput(); err == nil {
			if err := os.Rename(unfinished, s.cluster()); err != nil {
				return err
			}
			return syncDir(s.dir)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		out = fmt.Appendf(nil, "%v\n%s", err, lastLines(out))
		if !bytes.Contains(out, []byte("locale")) {
			break
		}
	}
	return fmt.Errorf("initdb: %s", out)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// makeSocketDir returns the directory of the socket: in Dir, or a short one in the system's when the path would not fit into a
// socket address (108 bytes with the NUL, unix(7)). Who may enter it may connect, so it is ours alone.
func (s *Server) makeSocketDir() (string, error) {
	const longest = 107
	own := filepath.Join(s.dir, "socket")
	if len(own)+len("/.s.PGSQL."+port) <= longest && !strings.ContainsAny(own, `,"@`) { // these mean something in the setting
		if err := os.Mkdir(own, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		return own, s.identity.own(own)
	}
	sum := sha256.Sum256([]byte(s.dir))
	short := filepath.Join("/tmp", "millrace-"+hex.EncodeToString(sum[:8]))
	if err := os.Mkdir(short, 0o700); err == nil {
		return short, s.identity.own(short)
	}
	// It is there already: from a run of ours that was killed, or somebody laid it there for us.
	if info, err := os.Lstat(short); err == nil && info.IsDir() && info.Mode().Perm() == 0o700 && owner(info) == s.identity.fileUID() {
		return short, nil
	}
	short, err := os.MkdirTemp("/tmp", "millrace-")
	if err != nil {
		return "", err
	}
	return short, s.identity.own(short)
}

// readPIDFile returns what postmaster.pid says: the process id in its first line, and in its eighth whether connections are
// taken (pg_ctl goes by the same line).
func (s *Server) readPIDFile() (pid int, ready bool) {
	content, err := os.ReadFile(filepath.Join(s.cluster(), "postmaster.pid"))
	if err != nil {
		return 0, false
	}
	lines := strings.Split(string(content), "\n")
	pid, _ = strconv.Atoi(strings.TrimSpace(lines[0]))
	return pid, len(lines) > 7 && strings.TrimSpace(lines[7]) == "ready"
}

// isPostmaster reports whether the process runs this cluster: a postmaster's working directory is its data directory.
func (s *Server) isPostmaster(pid int) bool {
	if pid <= 1 || syscall.Kill(pid, 0) == syscall.ESRCH {
		return false
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return false
	}
	a, errA := os.Stat(cwd)
	b, errB := os.Stat(s.cluster())
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// dropForeignPIDFile removes a postmaster.pid whose number belongs to another program by now, which PostgreSQL itself
// can't tell when that program runs as the same user (after a container's restart it usually does). We hold the lock.
func (s *Server) dropForeignPIDFile() {
	if pid, _ := s.readPIDFile(); pid != 0 && !s.isPostmaster(pid) {
		os.Remove(filepath.Join(s.cluster(), "postmaster.pid"))
	}
}

// endOrphan stops a postmaster that outlived the Millrace that started it. As we hold the lock nobody else watches over it.
func (s *Server) endOrphan(ctx context.Context) error {
	pid, _ := s.readPIDFile()
	if !s.isPostmaster(pid) {
		return nil
	}
	s.log.Warn("stopping a postgres left behind by an earlier run", "pid", pid)
	gone, cancel := make(chan struct{}), make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for s.isPostmaster(pid) {
			select {
			case <-cancel:
				return
			case <-ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
		close(gone)
	}()
	err := stopPID(pid, gone)
	close(cancel)
	<-watched
	return errors.Join(err, ctx.Err())
}

// openLog opens PostgreSQL's log for appending; one over 8 MiB is put aside first, in place of the one put aside before.
func (s *Server) openLog() (*os.File, error) {
	name := filepath.Join(s.dir, "log")
	if info, err := os.Stat(name); err == nil && info.Size() > 8<<20 {
		if err := os.Rename(name, name+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
}

// logTail returns the last lines of the log after an offset.
func (s *Server) logTail(from int64) []byte {
	f, err := os.Open(filepath.Join(s.dir, "log"))
	if err != nil {
		return nil
	}
	defer f.Close()
	tail, _ := io.ReadAll(io.LimitReader(io.NewSectionReader(f, from, 1<<62), 64<<10))
	return lastLines(tail)
}

func lastLines(out []byte) []byte {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-8):], []byte("\n"))
}
