package broker

import (
	"os"
	"os/signal"
	"testing"
	"time"
)

// TestServeConformance is no test of its own: with MQTT_CONFORMANCE_ADDR set it serves there, open to everybody, until it is
// interrupted. docs/mqtt.md tells how the public checks are run against it.
func TestServeConformance(t *testing.T) {
	addr := os.Getenv("MQTT_CONFORMANCE_ADDR")
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	s := &site{t: t, store: &inventory{}, intake: &intake{}}
	s.prepare(func(c *Config) { c.Addr, c.MaxPayload, c.MaxKeepAlive = addr, 256<<10, time.Minute })
	s.open, s.closed = true, "test/nosubscribe"
	s.serve()
	c := s.must5("anybody", "free", nil)
	if err := c.Disconnect(goodbye); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("MQTT_CONFORMANCE_ADDR") == "" {
		return
	}
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt)
	defer stop()
	<-ctx.Done()
}
