// Package natstest runs NATS servers for tests, set up as an operator of one would for Millrace.
package natstest

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Start runs a server with JetStream on 127.0.0.1 and returns when it takes connections. It keeps its files in dir and syncs every
// write. Port -1 means any that is free. The caller stops it.
func Start(t testing.TB, dir string, port int) *server.Server {
	t.Helper()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, SyncAlways: true, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	if !ns.ReadyForConnections(20 * time.Second) {
		t.Fatal("NATS does not start")
	}
	return ns
}

// Stop ends a server and waits until it has ended.
func Stop(ns *server.Server) {
	ns.Shutdown()
	ns.WaitForShutdown()
}
