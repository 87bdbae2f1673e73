package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lockDataDir keeps a second server out of the data directory. The kernel lets go of the lock when the process ends, however it ends.
func lockDataDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "millrace.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w; choose another with --data-dir", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := make([]byte, 20)
		n, _ := f.Read(holder)
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s: lock: %w", dir, err)
		}
		by := "another millrace"
		if pid := strings.TrimSpace(string(holder[:n])); pid != "" {
			by += " (process " + pid + ")"
		}
		return nil, fmt.Errorf("data directory %s is in use by %s; stop that one, or give this one another with --data-dir", dir, by)
	}
	// Who holds it, for the message above; the lock itself is the kernel's.
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return f, nil
}

// checkPort finds out early, before anything has been started, whether an address can be listened on.
func checkPort(flag, addr string) error {
	if off(addr) {
		return nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return portError(flag, addr, err)
	}
	return l.Close()
}

func portError(flag, addr string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("address %s is taken by another program; stop it, or choose another with --%s (port 0 takes a free one)", addr, flag)
	}
	if errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("address %s needs more rights than this user has; choose a port above 1023 with --%s", addr, flag)
	}
	return fmt.Errorf("--%s %s: %w", flag, addr, err)
}
