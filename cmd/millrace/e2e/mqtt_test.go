package e2e

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// kept waits until the broker's file holds an entry whose key begins so, or none. It looks at a copy: the file itself is locked.
func (s *server) kept(want bool, bucket, prefix string) {
	s.t.Helper()
	copied := filepath.Join(s.t.TempDir(), "sessions.db")
	eventually(s.t, 10*time.Second, bucket+" of "+prefix+" as they should be on disk", func() bool {
		content, err := os.ReadFile(filepath.Join(s.dir, "mqtt", "sessions.db"))
		if err != nil || os.WriteFile(copied, content, 0o600) != nil {
			return false
		}
		db, err := bbolt.Open(copied, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
		if err != nil {
			return false
		}
		defer db.Close()
		found := false
		err = db.View(func(tx *bbolt.Tx) error {
			if b := tx.Bucket([]byte(bucket)); b != nil {
				k, _ := b.Cursor().Seek([]byte(prefix))
				found = bytes.HasPrefix(k, []byte(prefix))
			}
			return nil
		})
		return err == nil && found == want
	})
}

// A mqttConn speaks MQTT 3.1.1 byte by byte.
type mqttConn struct {
	net.Conn
	t *testing.T
}

func field(s string) []byte { return append([]byte{byte(len(s) >> 8), byte(len(s))}, s...) }

// mqttConnect signs in and keeps the session; a will is a topic and a payload.
func mqttConnect(t *testing.T, s *server, device, token, id string, will ...string) mqttConn {
	t.Helper()
	nc, err := net.Dial("tcp", s.mqtt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	c := mqttConn{nc, t}
	flags := byte(0xc0)
	payload := field(id)
	if len(will) > 0 {
		flags |= 0x04 | 0x08 // QoS 1
		payload = append(append(payload, field(will[0])...), field(will[1])...)
	}
	payload = append(append(payload, field(device)...), field(token)...)
	c.send(0x10, append(append(field("MQTT"), 4, flags, 0, 60), payload...))
	if kind, body := c.read(); kind != 0x20 || body[1] != 0 {
		t.Fatalf("CONNACK %x %x", kind, body)
	}
	return c
}

func (c mqttConn) send(kind byte, body []byte) {
	c.t.Helper()
	length := []byte{byte(len(body))}
	if len(body) > 127 {
		length = []byte{byte(len(body)) | 0x80, byte(len(body) >> 7)}
	}
	if _, err := c.Write(append(append([]byte{kind}, length...), body...)); err != nil {
		c.t.Fatal(err)
	}
}

// read returns the next packet, which is shorter than 128 bytes.
func (c mqttConn) read() (kind byte, body []byte) {
	c.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	head := make([]byte, 2)
	if _, err := io.ReadFull(c, head); err != nil {
		c.t.Fatal(err)
	}
	body = make([]byte, head[1])
	if _, err := io.ReadFull(c, body); err != nil {
		c.t.Fatal(err)
	}
	return head[0], body
}

// A server that is killed while a device is connected publishes its will when it runs again, and stores no QoS 2 message twice whose
// identifier it had on disk: the device got no PUBREC and repeats it.
func TestMQTTOverAKill(t *testing.T) {
	s := start(t)
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1"}, nil)
	token := s.device("d1", "plant1")
	mqttConnect(t, s, "d1", token, "gone", "devices/d1/telemetry/gone", "1")
	mqttConnect(t, s, "d1", token, "left", "devices/d1/telemetry/left", "1").send(0xe0, nil) // DISCONNECT
	c := mqttConnect(t, s, "d1", token, "exact")
	message := append(append(field("devices/d1/telemetry/n"), 0, 7), "42.5"...)
	c.send(0x34, message)
	if kind, id := c.read(); kind != 0x50 || !bytes.Equal(id, []byte{0, 7}) {
		t.Fatalf("PUBREC %x %x", kind, id)
	}
	s.kept(true, "wills", "d1/gone\x00")
	s.kept(true, "received", "d1/exact\x00")
	s.kept(false, "wills", "d1/left\x00")
	s.kill()
	s.run()
	v := watch(t, s, adminToken, "plant1", nil)
	v.sees(t, "d1/gone", 1.0)
	c = mqttConnect(t, s, "d1", token, "exact")
	c.send(0x34|0x08, message) // DUP
	if kind, id := c.read(); kind != 0x50 || !bytes.Equal(id, []byte{0, 7}) {
		t.Fatalf("PUBREC %x %x", kind, id)
	}
	c.send(0x62, []byte{0, 7})
	if kind, id := c.read(); kind != 0x70 || !bytes.Equal(id, []byte{0, 7}) {
		t.Fatalf("PUBCOMP %x %x", kind, id)
	}
	s.kill()
	found := readSpine(t, s)
	if n := found.values["d1/n"][42.5]; n != 1 {
		t.Errorf("the QoS 2 message is stored %d times", n)
	}
	if n := found.values["d1/gone"][1]; n != 1 {
		t.Errorf("the will is stored %d times", n)
	}
	if n := found.values["d1/left"][1]; n != 0 {
		t.Error("the will of a client that had left was published")
	}
}
