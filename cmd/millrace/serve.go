package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard"
	"millrace/dashboard/admin"
	"millrace/dashboard/api"
	"millrace/dashboard/auth"
	"millrace/dashboard/live"
	"millrace/dashboard/operator"
	"millrace/dashboard/webpubsub"
	"millrace/dashboard/webpubsub/event"
	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/history"
	"millrace/devices/hubs"
	"millrace/devices/inventory"
	"millrace/devices/postgres"
	"millrace/fanout"
	"millrace/ingest"
	"millrace/ingest/broker"
	"millrace/ingest/mqtt"
	"millrace/ingest/rest"
	"millrace/ingest/spine"
	"millrace/web"
)

// serveCmd runs the server.
type serveCmd struct {
	Config `embed:""`
}

// Run serves until ctx ends.
func (c *serveCmd) Run(ctx context.Context, con *console) error {
	if err := c.Config.Validate(); err != nil {
		return err
	}
	log := c.Logging.logger(con.err)
	s := &server{c: &c.Config, log: log, out: con.out, started: time.Now()}
	return s.run(ctx)
}

// server is the parts of the running program.
type server struct {
	c       *Config
	log     *slog.Logger
	out     io.Writer // what is for people to read at the start
	started time.Time

	database  *database
	store     *postgres.Store
	catalog   *catalog.Catalog
	inventory *inventory.Inventory
	spine     *spine.Spine
	engine    *fanout.Engine
	bridge    *bridge
	recorder  *postgres.Recorder
	reader    *spine.Reader
	history   *history.Store
	writer    *history.Writer
	archivist *spine.Reader // of the writer, which may hold it up
	pipeline  *ingest.Pipeline
	broker    *broker.Broker   // nil: off
	sources   *mqtt.Subscriber // nil: no broker of somebody's
	live      *live.Handler

	hubs       *hubs.Registry
	dispatcher *event.Dispatcher
	endpoint   *webpubsub.Endpoint

	app *dashboard.App

	recorded atomic.Uint64 // position up to which last values are in the database
	httpAddr net.Addr
	status   statusCache
}

// run starts the parts in the order in which samples flow, and stops them in that order.
//
// Start: data directory, PostgreSQL, schema, inventory, spine, last values, engine, reader, intake and pages. Devices and
// viewers are let in once the reader has caught up with what the spine holds. Stop: intake, and with it the acknowledgements
// that are under way; the spine's last batch; the readers, when they have read that; last values and history; viewers, told to come back;
// PostgreSQL.
func (s *server) run(ctx context.Context) (err error) {
	ctx, failed := context.WithCancelCause(ctx)
	defer failed(nil)
	if err := checkPorts(s.c.Listen.addresses()); err != nil {
		return err
	}
	certificate, err := s.certificate()
	if err != nil {
		return err
	}
	tuneMemory(s.c.Limits.MemoryLimit, s.log)
	if err := s.c.Storage.make(); err != nil {
		return err
	}
	lock, err := lockDataDir(s.c.Storage.DataDir)
	if err != nil {
		return err
	}
	defer lock.Close()

	if s.database, err = openDatabase(ctx, s.c.Storage, s.log); err != nil {
		return err
	}
	base := newStage(ctx, failed) // PostgreSQL, and what goes on until the end
	defer func() {
		base.stop()
		err = errors.Join(err, s.database.close())
		s.log.Info("stopped")
	}()
	if s.database.local != nil {
		base.run("private PostgreSQL", s.database.local.Run)
	}
	s.store = postgres.New(s.database.pool)
	s.catalog = catalog.New(s.c.Limits.Catalog, s.store)
	s.inventory = inventory.New(s.store, s.catalog)
	if err := s.catalog.Load(ctx); err != nil {
		return fmt.Errorf("inventory: %w", err)
	}
	if err := s.loadHubs(ctx); err != nil {
		return err
	}
	password, err := s.bootstrap(ctx)
	if err != nil {
		return err
	}

	spineDir, err := s.c.Storage.dir("spine")
	if err != nil {
		return err
	}
	s.spine, err = spine.Open(ctx, spine.Config{NATSURL: s.c.Sources.NATSURL, Dir: spineDir, MaxBytes: s.c.Limits.SpineMaxBytes, Shards: s.c.Limits.SpineShards}, s.catalog, s.log)
	if err != nil {
		return fmt.Errorf("spine: %w", err)
	}
	defer func() { err = errors.Join(err, s.spine.Close()) }()

	life := s.spine.Life()
	position, values, err := s.store.LastValues(ctx, life)
	if err != nil {
		return err
	}
	if position == 0 && len(values) > 0 {
		s.spine.NoteReplaced()
	}
	s.engine = fanout.New(fanout.Config{Ring: s.c.Limits.LiveRing, RingBytes: s.c.Limits.LiveRingBytes})
	s.pipeline = ingest.New(s.c.Limits.Ingest, s.catalog, s.spine)
	s.bridge = &bridge{catalog: s.catalog, engine: s.engine, pipeline: s.pipeline}
	unfollow := s.bridge.follow()
	defer unfollow()
	s.bridge.restore(values)
	s.spine.Release("lastvalues", position)
	s.recorded.Store(position)
	s.recorder = postgres.NewRecorder(s.store, s.catalog, life, func(seq uint64) {
		s.recorded.Store(seq)
		s.spine.Release("lastvalues", seq)
	}, s.log)
	s.reader = s.spine.Reader(position+1, s.catalog, s.bridge, s.recorder)
	if err := s.record(ctx, life); err != nil {
		return err
	}
	if err := s.doors(certificate); err != nil {
		return err
	}

	// From here on everything runs. Stages end in the order of the deferred calls: the last one first.
	base.run("news of the inventory", func(ctx context.Context) error { return s.bridge.listen(ctx, s.store, s.hubs, s.log) })
	base.run("events of Web PubSub", s.dispatcher.Run)
	defer s.followRights()()
	viewing := newStage(ctx, failed)
	defer viewing.stop()
	viewing.run("engine", s.engine.Run)
	recording := newStage(ctx, failed)
	defer recording.stop()
	recording.run("recorder", s.recorder.Run)
	recording.run("history", s.writer.Run)
	recording.run("upkeep of history", s.history.Maintain)
	reading := newStage(ctx, failed)
	defer reading.stop()
	reading.run("reader", s.reader.Run)
	reading.run("reader of history", func(ctx context.Context) error {
		defer context.AfterFunc(ctx, s.writer.Halt)() // it may be waiting for the database
		return s.archivist.Run(ctx)
	})
	storing := newStage(ctx, failed)
	defer func() {
		storing.stop()
		s.drain()
	}()
	storing.run("spine", s.spine.Run)

	select {
	case <-s.reader.CaughtUp():
	case <-ctx.Done():
		return cause(ctx)
	}
	viewing.run("HTTP server", s.app.Run)
	intake := newStage(ctx, failed)
	defer func() {
		s.app.StopIntake()
		intake.stop()
	}()
	if s.broker != nil {
		intake.run("MQTT broker", s.broker.Run)
	}
	if s.sources != nil {
		intake.run("MQTT subscriber", s.sources.Run)
	}
	s.announce(password)
	if s.c.Demo.Demo {
		stopDemo, err := s.demo(ctx)
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		defer stopDemo()
	}
	<-ctx.Done()
	s.log.Info("stopping: intake first, viewers last; interrupt again to stop at once")
	return cause(ctx)
}

// cause is why the server stops: nil when it was told to.
func cause(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// record makes history's writer and its own reader of the spine: it may be held up, which the live one must not be.
func (s *server) record(ctx context.Context, life string) error {
	s.history = history.New(s.database.pool, s.catalog, s.c.History.History, s.log)
	writer, position, err := s.history.NewWriter(ctx, life, func(seq uint64) { s.spine.Release("history", seq) })
	if err != nil {
		return err
	}
	s.writer = writer
	s.spine.Release("history", position) // from now on nothing is dropped that it has not stored
	if position == 0 {                   // what was dropped before there was history is not missed
		stream, err := s.spine.Position(ctx)
		if err != nil {
			return err
		}
		position = max(stream.First, 1) - 1
	}
	s.archivist = s.spine.Reader(position+1, known{s.catalog}, writer)
	writer.Rewind = s.archivist.Seek
	s.history.Follow(func(ctx context.Context) error { return s.archivist.Wait(ctx, s.reader.Delivered()) })
	return nil
}

// drain waits until the readers have read everything that the spine has stored, for at most three seconds: what was taken in
// reaches viewers, last values and history now, and otherwise after the next start.
func (s *server) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	end, err := s.spine.Position(ctx)
	for _, r := range []*spine.Reader{s.reader, s.archivist} {
		if err == nil {
			err = r.Wait(ctx, end.Last)
		}
	}
}

// doors makes what devices and people come in by, and opens the ports; nobody is let in before Run.
func (s *server) doors(certificate *tls.Config) error {
	a := auth.New(auth.Config{Origins: s.c.Access.Origins, Secure: s.c.Access.SecureCookies}, s.inventory, s.catalog)
	s.live = live.New(s.c.Listen.Live, s.engine, s.catalog, a, s.log)
	s.pubsub(a)
	var err error
	if !off(s.c.Listen.MQTT.Addr) || certificate != nil && !off(s.c.Listen.MQTT.TLSAddr) {
		conf := s.c.Listen.MQTT
		if off(conf.Addr) {
			conf.Addr = ""
		}
		if off(conf.TLSAddr) || certificate == nil {
			conf.TLSAddr = ""
		} else {
			conf.TLSCert, conf.TLSKey = s.c.Listen.TLSCert, s.c.Listen.TLSKey
		}
		conf.MaxPayload = s.c.Limits.Ingest.MaxPayload
		if conf.Dir, err = s.c.Storage.dir("mqtt"); err != nil {
			return err
		}
		if s.broker, err = broker.New(conf, s.catalog, s.pipeline, s.log); err != nil {
			return fmt.Errorf("MQTT broker: %w", err)
		}
		if err := s.broker.Listen(); err != nil {
			if l, ok := errors.AsType[*broker.ListenError](err); ok {
				return portError("mqtt-"+l.Setting, l.Addr, l.Err)
			}
			return fmt.Errorf("MQTT broker: %w", err)
		}
	}
	if s.c.Sources.Broker.URL != "" {
		if s.sources, err = mqtt.New(s.c.Sources.Broker, s.catalog, s.pipeline, s.log); err != nil {
			return fmt.Errorf("MQTT subscriber: %w", err)
		}
	}
	rests := api.New(api.Deps{Inventory: s.inventory, Catalog: s.catalog, History: s.history, Stats: s.bridge.groupStats, Rejects: s.bridge.apiRejects,
		System: s.systemJSON})
	register := []func(fiber.Router){
		s.endpoint.Register,
		func(r fiber.Router) { webpubsub.RegisterSettings(r, s.hubs) },
		rests.Register,
		func(r fiber.Router) {
			rest.Register(r, s.pipeline, s.catalog, func(c *fiber.Ctx) *devices.Principal { return auth.Caller(c).Principal })
		},
	}
	if s.broker != nil {
		register = append(register, s.broker.Register)
	}
	register = append(register,
		func(r fiber.Router) {
			operator.Register(r, operator.Deps{Auth: a, Inventory: s.inventory, Catalog: s.catalog, Engine: liveValues{s.engine}, MQTTPort: s.mqttPort()})
		},
		func(r fiber.Router) {
			admin.Register(r, admin.Deps{Inventory: s.inventory, Catalog: s.catalog, System: s, Intake: s.bridge, Live: s.bridge, History: s.history, Addresses: s.addresses, Asset: web.Path})
		})
	s.app = dashboard.New(s.c.Listen.HTTP, dashboard.Deps{
		Auth:     a,
		Live:     s.live,
		Sockets:  s.endpoint,
		Register: register,
		Checks:   s.checks(),
		Metrics:  s.metrics(),
		OpenAPI:  api.OpenAPI,
		ErrorPage: func(c *fiber.Ctx, p dashboard.Problem) error {
			return operator.ErrorPage(c, p.Status, p.Detail, p.Instance)
		},
	}, s.log)
	if s.httpAddr, err = s.app.Listen(s.c.Listen.HTTPAddr, certificate); err != nil {
		return portError("http-addr", s.c.Listen.HTTPAddr, err)
	}
	return nil
}

// certificate reads the certificate, nil when there is none. Clients that speak neither TLS 1.2 nor 1.3 are refused.
func (s *server) certificate() (*tls.Config, error) {
	if s.c.Listen.TLSCert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(s.c.Listen.TLSCert, s.c.Listen.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert and --tls-key: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}, nil
}

// bootstrap makes the first admin, and puts the admin token in force or out of it. It returns the password if it made one up.
func (s *server) bootstrap(ctx context.Context) (string, error) {
	password, created, err := s.inventory.Bootstrap(ctx, s.c.Access.AdminEmail, s.c.Access.AdminPassword)
	if err != nil {
		return "", fmt.Errorf("first admin (--admin-email, --admin-password): %w", err)
	}
	if created {
		s.log.Info("made the first admin", "user", s.c.Access.AdminEmail)
	}
	if err := s.inventory.EnsureToken(ctx, "admin-token", s.c.Access.AdminToken); err != nil {
		return "", fmt.Errorf("--admin-token: %w", err)
	}
	return password, nil
}

// writeFile writes a small private file whole or not at all, and to the disk.
func writeFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// addresses are where devices connect, for the admin pages.
func (s *server) addresses() admin.Addresses {
	var a admin.Addresses
	if s.broker != nil && s.broker.Addr() != nil {
		a.MQTT = s.broker.Addr().String()
	}
	if s.broker != nil && s.broker.TLSAddr() != nil {
		a.MQTTS = s.broker.TLSAddr().String()
	}
	return a
}

func (s *server) mqttPort() string {
	if s.broker == nil || s.broker.Addr() == nil {
		return ""
	}
	_, port, _ := net.SplitHostPort(s.broker.Addr().String())
	return port
}

// url is where people find the pages from this machine.
func (s *server) url() string {
	scheme := "http"
	if s.c.Listen.TLSCert != "" {
		scheme = "https"
	}
	host, port, _ := net.SplitHostPort(s.httpAddr.String())
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() || ip.IsLoopback() {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// announce says that the server is ready, where, and how to sign in the first time.
func (s *server) announce(password string) {
	a := s.addresses()
	s.log.Info("ready", "http", s.httpAddr.String(), "mqtt", a.MQTT, "mqtts", a.MQTTS, "after", time.Since(s.started).Round(time.Millisecond))
	fmt.Fprintf(s.out, "\n  Millrace is at    %s\n", s.url())
	if a.MQTT != "" {
		fmt.Fprintf(s.out, "  MQTT broker at    %s\n", a.MQTT)
	}
	if password != "" {
		fmt.Fprintf(s.out, "  sign in as        %s\n  with password     %s   (shown this once)\n", s.c.Access.AdminEmail, password)
	}
	fmt.Fprintln(s.out)
}

// checks are the parts of /readyz. While PostgreSQL is away the server goes on taking and showing samples, but is not ready for
// people who want to change something.
func (s *server) checks() []dashboard.Check {
	return []dashboard.Check{
		{Name: "database", OK: s.store.Ping},
		{Name: "spine", OK: func(context.Context) error {
			if !s.spine.Stats().Healthy {
				return fmt.Errorf("spine: %w", devices.ErrUnavailable)
			}
			return nil
		}},
		{Name: "reader", OK: func(context.Context) error {
			select {
			case <-s.reader.CaughtUp():
				return nil
			default:
				return fmt.Errorf("the reader has not caught up: %w", devices.ErrUnavailable)
			}
		}},
	}
}

// readJSON reads a small file of ours; without it, v stays as it is.
func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
