package operator_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"go.uber.org/goleak"

	"millrace/dashboard"
	"millrace/dashboard/auth"
	"millrace/dashboard/live"
	"millrace/dashboard/operator"
	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/inventory"
	"millrace/fanout"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
	)
}

const (
	password = "mill-race-42"
	csrf     = "csrf-of-the-test"
)

// A site is the dashboard with a real engine, live delivery and catalog over an inventory in memory.
type site struct {
	engine  *fanout.Engine
	catalog *catalog.Catalog
	past    past
	before  time.Duration // how long run has published, once a second, before it begins
	addr    string
	groups  []devices.Group
	devices []catalog.DeviceRecord
	metrics []devices.Metric

	mu       sync.Mutex
	sessions map[string]bool // by secret
}

func (s *site) LoadDevices(context.Context, []devices.ID) ([]catalog.DeviceRecord, error) {
	return s.devices, nil
}

func (s *site) LoadGroups(context.Context) ([]devices.Group, []devices.Metric, error) {
	return s.groups, s.metrics, nil
}

func (s *site) LoadAccess(context.Context) (catalog.Access, error) {
	return catalog.Access{
		Users:    []devices.User{{ID: "u1", Email: "ada@example.org", Name: "Ada"}, {ID: "u2", Email: "bob@example.org"}},
		Bindings: []devices.Binding{{ID: "b1", User: "u1", Role: devices.Admin}},
	}, nil
}

func (s *site) SignIn(_ context.Context, email, given, _, _ string) (string, devices.Session, error) {
	if given != password {
		return "", devices.Session{}, devices.ErrUnauthorized
	}
	user := "u1"
	if email == "bob@example.org" {
		user = "u2"
	}
	s.mu.Lock()
	s.sessions[user] = true
	s.mu.Unlock()
	return user, devices.Session{User: user, CSRF: csrf, Expires: time.Now().Add(time.Hour)}, nil
}

func (s *site) SignOut(_ context.Context, secret string) error {
	s.mu.Lock()
	delete(s.sessions, secret)
	s.mu.Unlock()
	return nil
}

func (s *site) Session(_ context.Context, secret string) (devices.Session, *devices.Principal, error) {
	s.mu.Lock()
	ok := s.sessions[secret]
	s.mu.Unlock()
	if p := s.catalog.Principal(devices.UserPrincipal, secret); ok && p != nil {
		return devices.Session{User: secret, CSRF: csrf, Expires: time.Now().Add(time.Hour)}, p, nil
	}
	return devices.Session{}, nil, devices.ErrUnauthorized
}

func (s *site) Groups(_ context.Context, c inventory.Caller) ([]devices.Group, error) {
	var seen []devices.Group
	for _, g := range s.catalog.Groups() {
		if c.Can(devices.Viewer, g.Path) {
			seen = append(seen, g)
		}
	}
	return seen, nil
}

func (s *site) Group(ctx context.Context, c inventory.Caller, path devices.GroupPath) (devices.Group, error) {
	groups, err := s.Groups(ctx, c)
	for _, g := range groups {
		if g.Path == path {
			return g, err
		}
	}
	return devices.Group{}, devices.ErrNotFound
}

func (s *site) Device(_ context.Context, c inventory.Caller, id devices.ID) (devices.Device, error) {
	if d := s.catalog.Device(id); d != nil && c.CanAny(devices.Viewer, d.Info().Groups) {
		return d.Info(), nil
	}
	return devices.Device{}, devices.ErrNotFound
}

func (s *site) ChangePassword(_ context.Context, _ inventory.Caller, old, _ string) error {
	if old != password {
		return devices.ErrUnauthorized
	}
	return nil
}

func (s *site) GroupStats(p devices.GroupPath) operator.GroupStats {
	g := s.engine.GroupStats(p)
	return operator.GroupStats{Series: g.Series, Stale: g.Stale, Rate: g.Rate, LastSample: g.LastSample}
}

func (s *site) LastValues(ids []devices.SeriesID) []operator.LastValue {
	var out []operator.LastValue
	for _, v := range s.engine.LastValues(ids) {
		out = append(out, operator.LastValue{Sample: v.Sample, OK: v.OK})
	}
	return out
}

// api answers what the scripts of the pages ask of the REST API; like that, it refuses parameters it does not know.
func (s *site) api(r fiber.Router) {
	known := map[string]string{"/api/v1/groups": " stats ", "/api/v1/devices": " limit q ", "/api/v1/history": " series from to buckets shape ", "/api/v1/series": " device metric q limit "}
	r.Use("/api/v1", func(c *fiber.Ctx) error {
		for name := range c.Queries() {
			if !strings.Contains(known[c.Path()], " "+name+" ") {
				return devices.Invalid(name, "there is no such parameter here")
			}
		}
		return c.Next()
	})
	r.Get("/api/v1/history", s.history)
	r.Get("/api/v1/groups", func(c *fiber.Ctx) error {
		items := []map[string]any{}
		groups, err := s.Groups(c.UserContext(), auth.Caller(c))
		for _, g := range groups {
			v := s.engine.GroupStats(g.Path)
			items = append(items, map[string]any{"path": g.Path, "label": g.Label, "devices": g.Devices,
				"stats": map[string]any{"series": v.Series, "stale": v.Stale, "rate": v.Rate, "lastSample": v.LastSample}})
		}
		if err != nil {
			return err
		}
		return c.JSON(fiber.Map{"items": items, "next": nil})
	})
	r.Get("/api/v1/devices/:id", func(c *fiber.Ctx) error {
		d, err := s.Device(c.UserContext(), auth.Caller(c), devices.ID(c.Params("id")))
		if err != nil {
			return err
		}
		return c.JSON(fiber.Map{"id": d.ID, "groups": d.Groups})
	})
	r.Get("/api/v1/series", func(c *fiber.Ctx) error {
		items := []map[string]any{}
		for _, d := range s.catalog.DevicesIn(devices.Site) {
			for _, id := range d.AllSeries() {
				v, groups, _ := s.catalog.Series(id)
				name := string(v.Device) + "/" + v.Metric
				if !auth.Caller(c).CanAny(devices.Viewer, groups) || !strings.Contains(name, c.Query("q")) || len(items) == 20 ||
					c.Query("device", string(v.Device)) != string(v.Device) || c.Query("metric", v.Metric) != v.Metric {
					continue
				}
				items = append(items, map[string]any{"device": v.Device, "metric": v.Metric, "kind": v.Kind.String(), "label": v.Label, "unit": v.Unit, "low": nil, "high": nil, "expectedIntervalMs": 0})
			}
		}
		return c.JSON(fiber.Map{"items": items, "next": nil})
	})
	r.Get("/api/v1/devices", func(c *fiber.Ctx) error {
		items := []devices.Device{}
		for _, d := range s.catalog.DevicesIn(devices.Site) {
			if strings.Contains(string(d.ID()), c.Query("q")) && len(items) < 24 {
				items = append(items, d.Info())
			}
		}
		return c.JSON(fiber.Map{"items": items, "next": nil})
	})
}

// newSite makes a plant with n devices of seven metrics each, and one device in no group.
func newSite(t testing.TB, n int) *site {
	s := &site{engine: fanout.New(fanout.Config{}), sessions: map[string]bool{}, past: past{samples: map[devices.SeriesID][]devices.Sample{}}}
	for _, p := range []devices.GroupPath{"plant1", "plant1/line1", "plant1/line2", "plant1/utilities", "yard"} {
		s.groups = append(s.groups, devices.Group{Path: p, Label: map[devices.GroupPath]string{"plant1": "Bottling plant"}[p]})
	}
	low, high := 18.0, 42.0
	s.metrics = []devices.Metric{{Name: "temperature", Unit: "°C", Low: &low, High: &high}, {Name: "pressure", Unit: "bar"}, {Name: "power", Unit: "kW"}, {Name: "vibration.rms", Unit: "mm/s"}, {Name: "speed", Unit: "1/min"}}
	for i := range n {
		g := s.groups[1+i%3].Path
		s.devices = append(s.devices, catalog.DeviceRecord{Device: devices.Device{ID: devices.ID(fmt.Sprintf("press-%d", i+1)), Label: fmt.Sprintf("Press %d", i+1), Type: "press",
			State: devices.Active, Groups: []devices.GroupPath{g}, Attributes: json.RawMessage(`{"maker":"Acme","year":2021}`)}})
	}
	s.devices = append(s.devices, catalog.DeviceRecord{Device: devices.Device{ID: "loose", State: devices.Active, Attributes: json.RawMessage(`{}`)}})
	s.catalog = catalog.New(catalog.Config{SeriesPerDevice: 1000}, s)
	if err := s.catalog.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, g := range s.catalog.Groups() {
		s.engine.SetGroup(g)
	}
	a := auth.New(auth.Config{}, s, s.catalog)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	app := dashboard.New(dashboard.Config{}, dashboard.Deps{
		Auth: a, Live: live.New(live.Config{}, s.engine, s.catalog, a, log),
		Register: []func(fiber.Router){s.api, func(r fiber.Router) {
			operator.Register(r, operator.Deps{Auth: a, Inventory: s, Catalog: s.catalog, Engine: s, MQTTPort: "1883"})
		}},
		ErrorPage: func(c *fiber.Ctx, p dashboard.Problem) error {
			return operator.ErrorPage(c, p.Status, p.Detail, p.Instance)
		},
	}, log)
	addr, err := app.Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = "http://" + addr.String()
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = s.engine.Run(ctx) })
	parts.Go(func() {
		if err := app.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); parts.Wait(); http.DefaultClient.CloseIdleConnections() })
	return s
}

// take has samples recorded, and then shown.
func (s *site) take(batch []devices.Sample) {
	s.past.add(batch)
	s.engine.Offer(batch)
}

// offer is one sample, now; it makes the series at first sight.
func (s *site) offer(t testing.TB, device, metric string, kind devices.Kind, v devices.Sample) {
	d := s.catalog.Device(devices.ID(device))
	id, err := d.Series([]byte(metric), kind)
	if err != nil {
		t.Fatal(err)
	}
	series, groups, _ := s.catalog.Series(id)
	s.engine.SetSeries(series, groups)
	now := time.Now().UnixMilli()
	v.Series, v.Kind, v.At, v.Recv = id, kind, now, now
	s.take([]devices.Sample{v})
}

// run publishes for all devices until the test ends, 10 times a second: waves with spikes, a state, a switch, a place.
func (s *site) run(t testing.TB) {
	type one struct {
		id   devices.SeriesID
		kind devices.Kind
		base float64
		i    int
	}
	var all []one
	for i := range len(s.devices) - 1 {
		d := s.catalog.Device(s.devices[i].ID)
		for name, m := range map[string]one{"temperature": {base: 30}, "pressure": {base: 6}, "power": {base: 140}, "vibration.rms": {base: 2}, "speed": {base: 1480},
			"state": {kind: devices.String}, "door.open": {kind: devices.Bool}} {
			id, err := d.Series([]byte(name), m.kind)
			if err != nil {
				t.Fatal(err)
			}
			series, groups, _ := s.catalog.Series(id)
			s.engine.SetSeries(series, groups)
			all = append(all, one{id, m.kind, m.base, i})
		}
	}
	sample := func(o one, n int, at int64) devices.Sample {
		v := devices.Sample{Series: o.id, Kind: o.kind, At: at, Recv: at}
		switch o.kind {
		case devices.String:
			v.Text = []string{"running", "running", "idle", "cleaning"}[((n/600+o.i)%4+4)%4]
		case devices.Bool:
			v.Value = float64((n / 300) & 1)
		default:
			x := float64(n)/300 + float64(o.i)
			v.Value = math.Round(o.base*(1+0.12*math.Sin(x)+0.02*math.Sin(7.3*x)+0.004*float64(o.i%7))*100) / 100
			if (n+130*o.i)%1500 == 0 {
				v.Value *= 1.5
			}
			if o.i == 5 {
				v.Quality = devices.Uncertain
			}
			if o.i == 6 && n%20 < 19 {
				v.Quality = devices.Bad
			}
		}
		return v
	}
	started := time.Now()
	var before []devices.Sample
	for n := -int(s.before / time.Second); n < 0; n++ {
		if n < -1500 && n%30 != 0 {
			continue // of what is long ago, two samples a minute
		}
		for _, o := range all {
			before = append(before, sample(o, 10*n, started.UnixMilli()+1000*int64(n)))
		}
	}
	s.past.add(before)
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		var batch []devices.Sample
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			batch = batch[:0]
			now := time.Now().UnixMilli()
			for _, o := range all {
				if o.i == 3 && n > 20 { // it dies
					continue
				}
				v := sample(o, n, now)
				batch = append(batch, v)
			}
			s.take(batch)
		}
	})
	t.Cleanup(func() { cancel(); loop.Wait() })
}
