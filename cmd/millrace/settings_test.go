package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// parse runs the command line as far as its settings.
func parse(t *testing.T, args ...string) (Config, error) {
	t.Helper()
	var c cli
	var out bytes.Buffer
	p, err := newParser(&c, args, &console{out: &out, err: &out}, func(int) {})
	if err != nil {
		return Config{}, err
	}
	_, err = p.Parse(args)
	return c.Serve.Config, err
}

func settingsFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "millrace.conf")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPrecedence checks that a flag wins over the environment, that over the file, and that over the default.
func TestPrecedence(t *testing.T) {
	file := settingsFile(t, "# ours\n\nhttp-addr = :1111\nlive-ring=45s\ndemo = true\nmqtt-addr = \"2222\"\n")
	f := func(want string, args ...string) {
		t.Helper()
		c, err := parse(t, append([]string{"serve"}, args...)...)
		if err != nil || c.Listen.HTTPAddr != want {
			t.Errorf("%v: address %q, error %v; want %q", args, c.Listen.HTTPAddr, err, want)
		}
	}
	f(":8080")
	f(":4444", "--http-addr", ":4444")
	bad := settingsFile(t, "http-addr = :1111\n")
	f(":1111", "--config", bad)
	f(":4444", "--config="+bad, "--http-addr=:4444")
	t.Setenv("MILLRACE_HTTP_ADDR", ":3333")
	f(":3333")
	f(":3333", "--config", bad)
	f(":4444", "--config", bad, "--http-addr", ":4444")
	if _, err := parse(t, "serve", "--config", file); err == nil || !strings.Contains(err.Error(), "--mqtt-addr") {
		t.Errorf("a malformed address in the file: %v", err)
	}
	t.Setenv("MILLRACE_MQTT_ADDR", ":0")
	if c, err := parse(t, "serve", "--config", file); err != nil || !c.Demo.Demo || c.Limits.LiveRing.Seconds() != 45 || c.Listen.MQTT.Addr != ":0" {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestBadSettings checks that what is wrong is refused with its place.
func TestBadSettings(t *testing.T) {
	f := func(content, want string) {
		t.Helper()
		_, err := parse(t, "serve", "--config", settingsFile(t, content))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", content, err, want)
		}
	}
	f("http-adr = :80\n", `there is no setting "http-adr"`)
	f("http-addr\n", ":1:")
	f("# x\nhttp-addr = :1\nhttp-addr = :2\n", "set already in line 2")
	f("data-dir = \"x\n", "quotes")
	f("log-format = xml\n", "log-format")
	f("tls-cert = x.pem\n", "--tls-key go together")
	f("admin-token = short\n", "at least 20")
	f("database-url = mysql://x/y\n", "postgres")
	f("spine-max-bytes = 1\n", "64 MiB")
	f("live-ring-bytes = 1000\n", "1 MiB")
	f("memory-limit = 1000\n", "128 MiB")
	if _, err := parse(t, "serve", "--config", "/nowhere/millrace.conf"); err == nil {
		t.Error("a settings file that is not there is taken")
	}
}

// TestSettingsPage checks that docs/configuration.md is what go generate makes of the program.
func TestSettingsPage(t *testing.T) {
	var c cli
	p, err := newParser(&c, nil, &console{out: os.Stdout, err: os.Stderr}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := settingsPage(p.Model); !bytes.Equal(have, want) {
		t.Error("docs/configuration.md is not what the program says: go generate ./cmd/millrace")
	}
	for _, flag := range []string{"http-addr", "mqtt-addr", "mqtt-tls-addr", "tls-cert", "tls-key", "data-dir", "database-url", "nats-url", "mqtt-broker-url", "admin-token", "demo", "log-format"} {
		if !bytes.Contains(have, []byte("`--"+flag+"`")) {
			t.Errorf("there is no --%s", flag)
		}
	}
}
