package broker

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"testing"

	"github.com/eclipse/paho.golang/paho"
	"go.etcd.io/bbolt"
)

// snapshot copies the store of a running broker as it is on disk, once it holds the wills of these clients of press-7 and no others.
func (s *site) snapshot(clients ...string) (dir string) {
	s.t.Helper()
	slices.Sort(clients)
	eventually(s.t, "wills on disk", func() bool {
		var there []string
		err := s.Broker.store.db.View(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte(bucketWills)).ForEach(func(k, _ []byte) error {
				key, _ := splitKey(k)
				there = append(there, strings.TrimPrefix(key, "press-7/"))
				return nil
			})
		})
		return err == nil && slices.Equal(there, clients)
	})
	dir = s.t.TempDir()
	err := s.Broker.store.db.View(func(tx *bbolt.Tx) error {
		f, err := os.Create(filepath.Join(dir, "sessions.db"))
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = tx.WriteTo(io.Writer(f))
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// What a server that was killed kept of wills: those of clients that don't come back are published after the next start, each in its
// time; those of clients that left in order, or are back, are not.
func TestWillsOutliveTheServer(t *testing.T) {
	dir := t.TempDir()
	s := start(t, func(c *Config) { c.Dir = dir })
	connect := func(id string, delay, expiry uint32) *client5 {
		t.Helper()
		return s.must5("press-7", id, func(c *paho.Connect) {
			c.WillMessage = &paho.WillMessage{Topic: "devices/press-7/telemetry/online", Payload: []byte(id), QoS: 1, Retain: id == "now"}
			c.WillProperties = &paho.WillProperties{WillDelayInterval: &delay}
			c.Properties = &paho.ConnectProperties{SessionExpiryInterval: &expiry}
		})
	}
	connect("now", 0, 100)
	connect("clean", 0, 0)
	connect("later", 2, 100)
	connect("back", 2, 100)
	connect("twice", 3600, 100)
	connect("twice", 3600, 100) // takes over; one will
	if err := connect("gone", 0, 100).Disconnect(&paho.Disconnect{}); err != nil {
		t.Fatal(err)
	}
	_ = connect("away", 2, 100).conn.Close() // its delay has begun
	killed := s.snapshot("away", "back", "clean", "later", "now", "twice")
	s.stop()
	before := len(s.intake.got())

	s.run(func(c *Config) { c.Dir = killed })
	watcher := s.must5("press-7", "watcher", nil)
	connect("back", 2, 100)
	published := func() []string { return s.intake.got()[before:] }
	eventually(t, "wills as measurements", func() bool { return len(published()) >= 4 })
	got := slices.Sorted(slices.Values(published()))
	if want := []string{"press-7 online away", "press-7 online clean", "press-7 online later", "press-7 online now"}; !slices.Equal(got, want) {
		t.Errorf("published %q, want %q", got, want)
	}
	watcher.mustSubscribe(t, "devices/press-7/#")
	eventually(t, "the retained will", func() bool {
		return slices.Equal(watcher.received(), []string{"retained devices/press-7/telemetry/online now"})
	})
	// None comes a second time: published ones are forgotten, and only the two that wait are left.
	again := s.snapshot("back", "twice")
	s.stop()
	before = len(s.intake.got())
	s.run(func(c *Config) { c.Dir = again })
	eventually(t, "the will of the one that had come back", func() bool { return len(published()) >= 1 })
	if got := published(); !slices.Equal(got, []string{"press-7 online back"}) {
		t.Errorf("published again: %q", got)
	}
}
