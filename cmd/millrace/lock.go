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

// An address is one that the server is to listen on, with the flag that sets it.
type address struct{ flag, addr string }

// addresses are all that the server listens on, as it is set.
func (l Listen) addresses() []address {
	all := []address{{"http-addr", l.HTTPAddr}}
	if !off(l.MQTT.Addr) {
		all = append(all, address{"mqtt-addr", l.MQTT.Addr})
	}
	if l.TLSCert != "" && !off(l.MQTT.TLSAddr) {
		all = append(all, address{"mqtt-tls-addr", l.MQTT.TLSAddr})
	}
	return all
}

// checkPorts finds out early, before anything has been started, whether all addresses can be listened on, side by side.
func checkPorts(all []address) (err error) {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			err = errors.Join(err, l.Close())
		}
	}()
	for i, a := range all {
		l, err := net.Listen("tcp", a.addr)
		if err != nil {
			if other := samePort(all[:i], a); other != "" && errors.Is(err, syscall.EADDRINUSE) {
				return fmt.Errorf("--%s %s and --%s are the same address; choose another for one of them", a.flag, a.addr, other)
			}
			return portError(a.flag, a.addr, err)
		}
		held = append(held, l)
	}
	return nil
}

// samePort is the flag of the address that has the same port; "" if none has.
func samePort(all []address, a address) string {
	_, port, _ := net.SplitHostPort(a.addr)
	for _, o := range all {
		if _, p, _ := net.SplitHostPort(o.addr); p == port && p != "0" {
			return o.flag
		}
	}
	return ""
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
