package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"millrace/dashboard"
	"millrace/dashboard/live"
	"millrace/dashboard/webpubsub"
	"millrace/devices/catalog"
	"millrace/devices/history"
	"millrace/ingest"
	"millrace/ingest/broker"
	"millrace/ingest/mqtt"
)

// Config is every setting of the server. The groups are the sections of docs/configuration.md, which is made from it.
type Config struct {
	Listen  Listen  `embed:"" group:"Addresses and connections"`
	Storage Storage `embed:"" group:"Storage"`
	History History `embed:"" group:"History"`
	Sources Sources `embed:"" group:"Other people's servers"`
	Access  Access  `embed:"" group:"Access"`
	Limits  Limits  `embed:"" group:"Limits"`
	Logging Logging `embed:"" group:"Logs and measurements"`
	Demo    Demo    `embed:"" group:"Demo"`
}

// Listen is where the server listens, and for whom.
type Listen struct {
	HTTPAddr string           `name:"http-addr" default:":8080" help:"Address for pages, the API, live data and MQTT over WebSocket."`
	TLSCert  string           `name:"tls-cert" placeholder:"FILE" help:"Certificate chain (PEM) for HTTPS and MQTT over TLS. Without it there is neither."`
	TLSKey   string           `name:"tls-key" placeholder:"FILE" help:"Key (PEM) of the certificate."`
	MQTT     broker.Config    `embed:"" prefix:"mqtt-"`
	HTTP     dashboard.Config `embed:"" prefix:"http-"`
	Live     live.Config      `embed:"" prefix:"live-"`
	PubSub   webpubsub.Config `embed:"" prefix:"webpubsub-"`
}

// Storage is where the server keeps what it must not lose; migrate, token and user need it as well.
type Storage struct {
	DataDir     string `name:"data-dir" default:"./data" help:"Directory of the private Postgres, the spine and the demo fleet's tokens. One server at a time."`
	DatabaseURL string `name:"database-url" placeholder:"URL" help:"A PostgreSQL 14 or newer to use in place of the private one, as postgres://user:password@host/database."`
	PostgresBin string `name:"postgres-bin" placeholder:"DIR" help:"Folder of initdb and postgres for the private Postgres. Without it they are looked for in pg_config's answer, PATH and the usual places."`
}

// History is how samples are recorded, and for how long.
type History struct {
	History history.Config `embed:"" prefix:"history-"`
}

// Sources are servers of others that this one uses.
type Sources struct {
	NATSURL string      `name:"nats-url" placeholder:"URL" help:"A NATS server or cluster with JetStream to use in place of the one inside the process."`
	Broker  mqtt.Config `embed:"" prefix:"mqtt-broker-"`
}

// Access is who gets in.
type Access struct {
	AdminEmail    string   `name:"admin-email" default:"admin@localhost" help:"E-mail of the first admin, made when there is no user yet."`
	AdminPassword string   `name:"admin-password" placeholder:"PASSWORD" help:"Password of the first admin. Without it one is made up and printed once. Better given as environment variable than as flag."`
	AdminToken    string   `name:"admin-token" placeholder:"TOKEN" help:"An API token that may everything, for automation: at least 20 characters. It is in force as long as it is set."`
	AccessKey     string   `name:"access-key" placeholder:"KEY" help:"Primary access key of Web PubSub, in place of the one that was made at the first start: at least 32 characters."`
	Origins       []string `name:"origin" placeholder:"ORIGIN" help:"Further origins whose pages may act with the session cookie, such as https://millrace.example behind a proxy that changes Host."`
	SecureCookies bool     `name:"secure-cookies" help:"Mark cookies as secure even if requests don't arrive over TLS, because a proxy ends it."`
}

// Limits bound what devices can cost.
type Limits struct {
	Catalog       catalog.Config `embed:""`
	Ingest        ingest.Config  `embed:"" prefix:"ingest-"`
	SpineMaxBytes int64          `name:"spine-max-bytes" default:"4294967296" help:"Size of the spine in bytes. Samples that are stored elsewhere make room; when none are, devices get no acknowledgement."`
	SpineShards   int            `name:"spine-shards" default:"1" help:"Subjects of the spine, each with a batcher of its own. It is set when the spine is made."`
	LiveRing      time.Duration  `name:"live-ring" default:"30s" help:"How long ticks are kept, so that viewers who drop out can resume without loss."`
	LiveRingBytes int            `name:"live-ring-bytes" default:"67108864" help:"Memory for those ticks in bytes, some 25 for each change of a number. When it is full the oldest go early: who resumes from there gets a snapshot."`
	MemoryLimit   int64          `name:"memory-limit" placeholder:"BYTES" help:"Memory of the process in bytes above which garbage is collected at any price. Without it, two thirds of what its control group may use; GOMEMLIMIT wins over both."`
}

// Logging is what the server says about itself.
type Logging struct {
	LogFormat string `name:"log-format" enum:"text,json" default:"text" help:"Format of the log on standard error: text or json."`
	LogLevel  string `name:"log-level" enum:"debug,info,warn,error" default:"info" help:"Least level that is logged: debug, info, warn or error."`
}

// Demo adds something to watch.
type Demo struct {
	Demo bool `name:"demo" help:"Add a simulated plant that publishes over MQTT, and somebody to look at it."`
}

// Validate reports everything that can be known to be wrong before anything has started.
func (c *Config) Validate() error {
	var all []error
	wrong := func(flag, format string, args ...any) {
		all = append(all, fmt.Errorf("--%s %s", flag, fmt.Sprintf(format, args...)))
	}
	for flag, addr := range map[string]string{"http-addr": c.Listen.HTTPAddr, "mqtt-addr": c.Listen.MQTT.Addr, "mqtt-tls-addr": c.Listen.MQTT.TLSAddr} {
		if off(addr) && flag != "http-addr" {
			continue
		}
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			wrong(flag, "is %q; an address looks like :8080 or 127.0.0.1:8080", addr)
		}
	}
	if (c.Listen.TLSCert == "") != (c.Listen.TLSKey == "") {
		wrong("tls-cert", "and --tls-key go together")
	}
	if c.Listen.MQTT.TLSClientCA != "" && c.Listen.TLSCert == "" {
		wrong("mqtt-tls-client-ca", "needs --tls-cert")
	}
	checkURL := func(flag, value string, schemes ...string) {
		if value == "" {
			return
		}
		u, err := url.Parse(value)
		if err != nil || u.Host == "" && u.RawQuery == "" || !slices.Contains(schemes, u.Scheme) {
			wrong(flag, "must begin with %s:// and name a host", strings.Join(schemes, ":// or ")) // not the value: it may hold a password
		}
	}
	if strings.Contains(c.Storage.DatabaseURL, "://") { // else a keyword/value string, which pgx takes as well
		checkURL("database-url", c.Storage.DatabaseURL, "postgres", "postgresql")
	}
	for u := range strings.SplitSeq(c.Sources.NATSURL, ",") {
		checkURL("nats-url", strings.TrimSpace(u), "nats", "tls", "ws", "wss")
	}
	if c.Sources.Broker.URL != "" {
		if err := c.Sources.Broker.Validate(); err != nil {
			all = append(all, fmt.Errorf("--mqtt-broker-%w", err))
		}
	}
	if !off(c.Listen.MQTT.Addr) || !off(c.Listen.MQTT.TLSAddr) {
		if err := c.Listen.MQTT.Validate(); err != nil {
			all = append(all, fmt.Errorf("--mqtt-%w", err))
		}
	}
	if err := c.History.History.Validate(); err != nil {
		all = append(all, fmt.Errorf("--history-%w", err))
	}
	if t := c.Access.AdminToken; t != "" && len(t) < 20 {
		wrong("admin-token", "has %d characters; at least 20 are needed", len(t))
	}
	if c.Storage.DataDir == "" {
		wrong("data-dir", "is empty")
	}
	if c.Demo.Demo && off(c.Listen.MQTT.Addr) && c.Sources.Broker.URL == "" {
		wrong("demo", "needs a broker: don't set --mqtt-addr=off")
	}
	if c.Limits.SpineMaxBytes < 64<<20 {
		wrong("spine-max-bytes", "is below 67108864 (64 MiB)")
	}
	if c.Limits.SpineShards < 1 || c.Limits.SpineShards > 64 {
		wrong("spine-shards", "must be between 1 and 64")
	}
	if c.Limits.LiveRing < time.Second || c.Limits.LiveRing > time.Hour {
		wrong("live-ring", "must be between 1s and 1h")
	}
	if c.Limits.LiveRingBytes < 1<<20 {
		wrong("live-ring-bytes", "is below 1048576 (1 MiB)")
	}
	if m := c.Limits.MemoryLimit; m != 0 && m < 128<<20 {
		wrong("memory-limit", "is below 134217728 (128 MiB)")
	}
	return errors.Join(all...)
}

// off reports whether an address means that nothing should listen.
func off(addr string) bool { return addr == "" || addr == "off" }

// logger returns the log of the process.
func (l Logging) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.LogLevel)) // kong has checked it
	options := &slog.HandlerOptions{Level: level}
	if l.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// dir returns a directory below the data directory as an absolute path.
func (s Storage) dir(name string) (string, error) {
	base, err := filepath.Abs(s.DataDir)
	if err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	return filepath.Join(base, name), nil
}

// make creates the data directory unless it is there. Others may enter it (the private Postgres may run under another user) but see nothing.
func (s Storage) make() error {
	if err := os.MkdirAll(s.DataDir, 0o711); err != nil {
		return fmt.Errorf("data directory: %w; choose another with --data-dir", err)
	}
	return nil
}
