package spine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// embed starts the NATS server in this process: no port, every write synced.
func (s *Spine) embed(ctx context.Context, c Config) error {
	if c.Dir == "" {
		return errors.New("no directory is set")
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(c.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	// The kernel drops it with the process, however that ends, so a kill leaves nothing to clean up.
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("another process uses this directory: %w", err), lock.Close())
	}
	s.lock = lock
	s.fitDisk(c.Dir)
	// The server would reserve three quarters of the free disk; what it may use is set here, with room for the bucket.
	ns, err := server.NewServer(&server.Options{
		ServerName: "millrace", DontListen: true, NoSigs: true, NoLog: true, NoSystemAccount: true,
		JetStream: true, StoreDir: c.Dir, SyncAlways: true, MaxPayload: maxPayload,
		JetStreamMaxStore:  1 << 50, // the stream has its own bound; a lower one here refuses a stream that was larger
		JetStreamMaxMemory: 64 << 20,
		MaxPending:         64 << 20,
	})
	if err != nil {
		return err
	}
	s.server = ns
	ns.SetLoggerV2(logger{s.log.With("part", "nats")}, false, false, false)
	ns.Start()
	// Recovery reads the blocks that were not closed cleanly; with many gigabytes that takes a while.
	for !ns.ReadyForConnections(time.Second) || !ns.JetStreamEnabled() {
		if !ns.Running() {
			return errors.New("nats server ended while starting")
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// fitDisk lowers MaxBytes to what the disk can hold: a full disk makes JetStream switch itself off until a restart, while
// a full stream only refuses.
func (s *Spine) fitDisk(dir string) {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		s.log.Warn("size of the disk is unknown", "err", err)
		return
	}
	var used int64
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			used += info.Size()
		}
		return err
	})
	if err != nil {
		s.log.Warn("size of the spine's files is unknown", "err", err)
	}
	if room := used + int64(disk.Bavail)*int64(disk.Bsize)/10*9; room < s.maxBytes {
		s.log.Warn("the disk is smaller than the spine may grow", "max_bytes", s.maxBytes, "room", room)
		s.maxBytes = room
	}
}

// logger passes on what the NATS server says from warnings up.
type logger struct{ *slog.Logger }

func (l logger) Noticef(string, ...any)         {}
func (l logger) Debugf(string, ...any)          {}
func (l logger) Tracef(string, ...any)          {}
func (l logger) Warnf(format string, v ...any)  { l.Warn(fmt.Sprintf(format, v...)) }
func (l logger) Errorf(format string, v ...any) { l.Error(fmt.Sprintf(format, v...)) }
func (l logger) Fatalf(format string, v ...any) { l.Error(fmt.Sprintf(format, v...)) }
