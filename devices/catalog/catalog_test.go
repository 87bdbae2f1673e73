package catalog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/devices"
)

// store is an inventory to load from.
type store struct {
	mu      sync.Mutex
	devices map[devices.ID]DeviceRecord
	groups  []devices.Group
	metrics []devices.Metric
	access  Access
	err     error
}

func (s *store) LoadDevices(_ context.Context, ids []devices.ID) ([]DeviceRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []DeviceRecord
	for id, r := range s.devices {
		if ids == nil || slices.Contains(ids, id) {
			all = append(all, r)
		}
	}
	return all, s.err
}

func (s *store) LoadGroups(context.Context) ([]devices.Group, []devices.Metric, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.groups, s.metrics, s.err
}

func (s *store) LoadAccess(context.Context) (Access, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.access, s.err
}

func device(id devices.ID, groups ...devices.GroupPath) DeviceRecord {
	return DeviceRecord{Device: devices.Device{ID: id, State: devices.Active, Groups: groups}}
}

func loaded(t testing.TB, conf Config, records ...DeviceRecord) (*Catalog, *store) {
	t.Helper()
	s := &store{devices: make(map[devices.ID]DeviceRecord)}
	for _, r := range records {
		s.devices[r.ID] = r
	}
	c := New(conf, s)
	if err := c.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	return c, s
}

func TestSeriesAtFirstSight(t *testing.T) {
	c, _ := loaded(t, Config{SeriesPerDevice: 2}, device("press-7"))
	d := c.Device("press-7")
	f := func(metric string, wantID devices.SeriesID, wantErr error) {
		t.Helper()
		id, err := d.Series([]byte(metric), devices.Float)
		if id != wantID || !errors.Is(err, wantErr) {
			t.Errorf("Series(%q) = %d, %v; want %d, %v", metric, id, err, wantID, wantErr)
		}
	}
	f("temp", 1, nil)
	f("speed", 2, nil)
	f("temp", 1, nil)
	f("third", 0, devices.ErrTooLarge)
	f("a/b", 0, devices.ErrInvalid)
	f("", 0, devices.ErrInvalid)
	f("speed", 2, nil)
	if id, ok := c.Resolve([]byte("press-7"), []byte("third"), devices.Int); !ok || id != 3 {
		t.Errorf("Resolve of a series over the bound = %d, %v; accepted samples have none", id, ok)
	}
	if _, ok := c.Resolve([]byte("unknown"), []byte("temp"), devices.Int); ok {
		t.Error("Resolve found an unknown device")
	}
	if got := d.AllSeries(); !slices.Equal(got, []devices.SeriesID{1, 2, 3}) {
		t.Errorf("AllSeries = %v", got)
	}
	if id, metric := c.Name(2); id != "press-7" || metric != "speed" {
		t.Errorf("Name(2) = %s, %s", id, metric)
	}
	for _, unknown := range []devices.SeriesID{0, 4, 1 << 31} {
		if id, metric := c.Name(unknown); id != "" || metric != "" {
			t.Errorf("Name(%d) = %s, %s", unknown, id, metric)
		}
	}
}

func TestKindFollowsTheLastValueButIntWidensForGood(t *testing.T) {
	c, _ := loaded(t, Config{}, device("d"))
	var events int
	c.Watch(func(e Event) { events += len(e.Series) })
	f := func(k, want devices.Kind, wantEvents int) {
		t.Helper()
		events = 0
		id, err := c.Device("d").Series([]byte("m"), k)
		if s, _, _ := c.Series(id); err != nil || s.Kind != want || events != wantEvents {
			t.Errorf("after a %v: kind %v, %d events, %v; want %v, %d", k, s.Kind, events, err, want, wantEvents)
		}
	}
	f(devices.Int, devices.Int, 1)
	f(devices.Int, devices.Int, 0)
	f(devices.Float, devices.Float, 1)
	f(devices.Int, devices.Float, 0)
	f(devices.String, devices.String, 1)
	f(devices.Bool, devices.Bool, 1)
	f(devices.Int, devices.Int, 1)
}

func TestHotPathAllocatesNothing(t *testing.T) {
	c, _ := loaded(t, Config{}, device("press-7"))
	d := c.Device("press-7")
	metric, id := []byte("temp"), devices.ID("press-7")
	series, _ := d.Series(metric, devices.Float)
	f := func(name string, call func()) {
		t.Helper()
		if n := testing.AllocsPerRun(100, call); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	f("Device", func() { c.Device(id) })
	f("Device.Series", func() { d.Series(metric, devices.Float) })
	f("Name", func() { c.Name(series) })
	f("Resolve", func() { c.Resolve([]byte("press-7"), metric, devices.Float) })
	f("State", func() { d.State() })
}

func TestEffectiveSettings(t *testing.T) {
	low, high, own := 1.0, 2.0, 3.0
	r := device("d", "plant1/line2")
	r.ExpectedInterval = time.Second
	r.Series = []devices.Series{
		{Metric: "temp", Kind: devices.Int, Unit: "K", High: &own, ExpectedInterval: time.Minute},
		{Metric: "plain", Kind: devices.Bool},
	}
	c, s := loaded(t, Config{}, r)
	s.metrics = []devices.Metric{{Name: "temp", Label: "Temperature", Unit: "°C", Low: &low, High: &high}}
	var changed []devices.SeriesID
	c.Watch(func(e Event) { changed = append(changed, e.Series...) })
	if err := c.Refresh(t.Context(), Change{Topic: GroupsChanged}); err != nil {
		t.Fatal(err)
	}
	got, groups, ok := c.Series(1)
	if !ok || got.Label != "Temperature" || got.Unit != "K" || *got.Low != 1 || *got.High != 3 || got.ExpectedInterval != time.Minute ||
		got.Kind != devices.Int || got.Device != "d" || got.ID != 1 || !slices.Equal(groups, []devices.GroupPath{"plant1/line2"}) {
		t.Errorf("Series(1) = %+v, %v, %v", got, groups, ok)
	}
	if got, _, _ := c.Series(2); got.ExpectedInterval != time.Second || got.Label != "" || got.Kind != devices.Bool {
		t.Errorf("Series(2) = %+v", got)
	}
	if !slices.Equal(changed, []devices.SeriesID{1}) {
		t.Errorf("changed series %v, want only the metric's", changed)
	}
	if m := c.Metrics(); len(m) != 2 || m[0].Name != "plain" || m[1].Unit != "°C" {
		t.Errorf("Metrics = %+v", m)
	}
}

func TestRefreshTellsWhatChanged(t *testing.T) {
	c, s := loaded(t, Config{}, device("a", "p/x"), device("b", "p"), device("other"))
	a := c.Device("a")
	temp, _ := a.Series([]byte("temp"), devices.Float)
	s.groups = []devices.Group{{Path: "p-1"}, {Path: "p/x"}, {Path: "p"}}
	var got []Event
	cancel := c.Watch(func(e Event) { got = append(got, e) })
	f := func(ch Change, check func(e Event) bool) {
		t.Helper()
		got = nil
		if err := c.Refresh(t.Context(), ch); err != nil || len(got) != 1 || !check(got[0]) {
			t.Errorf("Refresh(%v): %v, events %+v", ch, err, got)
		}
	}
	f(Change{Topic: GroupsChanged}, func(e Event) bool { return e.Groups && e.Series == nil })
	f(Change{Topic: GroupsChanged}, func(e Event) bool { return !e.Groups })
	if g := c.Groups(); len(g) != 3 || g[0].Path != "p" || g[1].Path != "p/x" || g[2].Path != "p-1" || g[0].Devices != 2 || g[1].Devices != 1 {
		t.Errorf("Groups = %+v", g)
	}
	f(Change{Topic: DevicesChanged, Devices: []devices.ID{"a"}}, func(e Event) bool { return e.Series == nil && slices.Equal(e.Devices, []devices.ID{"a"}) })
	moved := device("a", "q")
	s.devices["a"] = moved
	f(Change{Topic: DevicesChanged, Devices: []devices.ID{"a"}}, func(e Event) bool { return slices.Equal(e.Series, []devices.SeriesID{temp}) })
	if in := c.DevicesIn("p"); len(in) != 1 || in[0].ID() != "b" {
		t.Errorf("DevicesIn(p) after the move = %v", in)
	}
	if in := c.DevicesIn(devices.Site); len(in) != 3 || in[0] != a {
		t.Errorf("DevicesIn(Site) = %v", in)
	}
	delete(s.devices, "a")
	f(Change{Topic: DevicesChanged, Devices: []devices.ID{"a", "never"}}, func(e Event) bool {
		return slices.Equal(e.Removed, []devices.SeriesID{temp}) && slices.Equal(e.Devices, []devices.ID{"a"})
	})
	if _, err := a.Series([]byte("new"), devices.Float); c.Device("a") != nil || a.State() != devices.Disabled || !errors.Is(err, devices.ErrNotFound) {
		t.Errorf("a deleted device: state %s, new series: %v", a.State(), err)
	}
	if _, _, ok := c.Series(temp); ok || len(c.DevicesIn("q")) != 0 {
		t.Error("a deleted device's series or membership is still there")
	}
	if id, metric := c.Name(temp); id != "a" || metric != "temp" {
		t.Errorf("the name of a series that is gone = %s, %s; it stays, for samples on their way", id, metric)
	}
	s.devices["a"] = moved
	f(Change{Topic: DevicesChanged}, func(e Event) bool { return len(e.Devices) == 3 })
	if c.Device("a") == a {
		t.Error("a device made again is the old one")
	}
	cancel()
	got = nil
	if err := c.Load(t.Context()); err != nil || got != nil {
		t.Errorf("Load after cancel: %v, %v", err, got)
	}
}

func TestStoreAwayChangesNothing(t *testing.T) {
	c, s := loaded(t, Config{}, device("a"))
	c.Watch(func(e Event) { t.Errorf("event %+v", e) })
	away := errors.New("connection refused")
	s.devices, s.err = nil, away
	for _, topic := range []Topic{DevicesChanged, GroupsChanged, AccessChanged} {
		if err := c.Refresh(t.Context(), Change{Topic: topic}); !errors.Is(err, away) {
			t.Errorf("Refresh(%s): %v", topic, err)
		}
	}
	if err := c.Load(t.Context()); !errors.Is(err, away) || c.Device("a") == nil {
		t.Errorf("Load: %v", err)
	}
}

func TestDeviceSignsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		soon := time.Now().Add(time.Minute)
		sum, print := sha256.Sum256([]byte("mrd_good")), sha256.Sum256([]byte("certificate"))
		late := sha256.Sum256([]byte("mrd_late"))
		r := device("d")
		r.Credentials = []devices.Credential{
			{ID: "1", Kind: devices.TokenCredential, Hash: sum[:]},
			{ID: "2", Kind: devices.TokenCredential, Hash: late[:], Expires: &soon},
			{ID: "3", Kind: devices.X509Credential, Hash: print[:]},
		}
		off := r
		off.Device.ID, off.State, off.Credentials = "off", devices.Disabled, r.Credentials[:2]
		c, s := loaded(t, Config{}, r, off)
		f := func(id devices.ID, token, want string) {
			t.Helper()
			d, credential, err := c.DeviceByToken(id, token)
			if credential != want || (want == "") != errors.Is(err, devices.ErrUnauthorized) || (want != "") != (d != nil) {
				t.Errorf("DeviceByToken(%s, %s) = %q, %v; want %q", id, token, credential, err, want)
			}
		}
		f("d", "mrd_good", "1")
		f("d", "mrd_late", "2")
		f("d", "mrd_bad", "")
		f("d", "", "")
		f("off", "mrd_good", "")
		f("unknown", "mrd_good", "")
		if _, credential, err := c.DeviceByFingerprint(print); credential != "3" || err != nil {
			t.Errorf("by fingerprint: %q, %v", credential, err)
		}
		if _, _, err := c.DeviceByFingerprint(sum); !errors.Is(err, devices.ErrUnauthorized) {
			t.Errorf("a token's hash as fingerprint: %v", err)
		}
		time.Sleep(time.Minute)
		f("d", "mrd_late", "")
		if c.CredentialValid("d", "2") || !c.CredentialValid("d", "1") || c.CredentialValid("off", "1") {
			t.Error("CredentialValid does not follow expiry and state")
		}
		r.Credentials = nil
		s.devices["d"] = r
		if err := c.Refresh(t.Context(), Change{Topic: DevicesChanged, Devices: []devices.ID{"d"}}); err != nil {
			t.Fatal(err)
		}
		f("d", "mrd_good", "")
		if _, _, err := c.DeviceByFingerprint(print); err == nil || c.CredentialValid("d", "1") {
			t.Error("a revoked credential still signs in")
		}
	})
}

func TestPrincipals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		soon := time.Now().Add(time.Minute)
		sum, late := sha256.Sum256([]byte("mrt_a")), sha256.Sum256([]byte("mrt_b"))
		c, s := loaded(t, Config{}, device("d"))
		s.access = Access{
			Users:  []devices.User{{ID: "1", Email: "a@x"}, {ID: "2", Email: "b@x", Disabled: true}},
			Tokens: []devices.APIToken{{ID: "1", Name: "ci", Hash: sum[:]}, {ID: "2", Hash: late[:], Expires: &soon}},
			Bindings: []devices.Binding{{ID: "1", User: "1", Group: "p", Role: devices.Viewer},
				{ID: "2", Token: "1", Group: devices.Site, Role: devices.Ingest}},
		}
		refresh := func() {
			t.Helper()
			if err := c.Refresh(t.Context(), Change{Topic: AccessChanged}); err != nil {
				t.Fatal(err)
			}
		}
		refresh()
		u := c.Principal(devices.UserPrincipal, "1")
		if !u.Can(devices.Viewer, "p/x") || u.Can(devices.Viewer, "q") || u.Name != "a@x" {
			t.Errorf("user 1 = %+v", u)
		}
		if c.Principal(devices.UserPrincipal, "2") != nil || c.Principal(devices.UserPrincipal, "3") != nil {
			t.Error("a disabled or unknown user has rights")
		}
		if p := c.PrincipalByToken("mrt_a"); !p.Can(devices.Ingest, "p") || p.Can(devices.Viewer, "p") || p != c.Principal(devices.TokenPrincipal, "1") {
			t.Errorf("token 1 = %+v", p)
		}
		if c.PrincipalByToken("mrt_x") != nil || c.PrincipalByToken("mrt_b") == nil {
			t.Error("tokens by secret")
		}
		if uses := c.TokenUses(); len(uses) != 2 || len(c.TokenUses()) != 0 {
			t.Errorf("TokenUses = %v", uses)
		}
		if c.Principal(devices.DevicePrincipal, "d") == nil || c.Principal(devices.DevicePrincipal, "e") != nil || c.Principal(devices.SystemPrincipal, "system") != devices.System {
			t.Error("device and system principals")
		}
		time.Sleep(time.Minute)
		if c.PrincipalByToken("mrt_b") != nil || c.Principal(devices.TokenPrincipal, "2") != nil {
			t.Error("an expired token has rights")
		}
		refresh()
		if c.Principal(devices.UserPrincipal, "1") != u {
			t.Error("an unchanged principal is another one after a refresh")
		}
		s.access.Bindings = nil
		refresh()
		if now := c.Principal(devices.UserPrincipal, "1"); now == u || now.Can(devices.Viewer, "p") || !u.Can(devices.Viewer, "p") {
			t.Error("a principal must not change, but be replaced")
		}
	})
}

// Everything at once, for the race detector; each new series must have been told before anybody gets its id.
func TestManyAtOnce(t *testing.T) {
	var records []DeviceRecord
	for i := range 4 {
		records = append(records, device(devices.ID(fmt.Sprint("d", i)), "p/x"))
	}
	c, s := loaded(t, Config{}, records...)
	var told sync.Map
	var seen devices.SeriesID
	c.Watch(func(e Event) {
		for _, id := range e.Series {
			told.Store(id, true)
			if _, _, ok := c.Series(id); !ok {
				t.Errorf("series %d was told before it was there", id)
			}
			seen = max(seen, id)
		}
	})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 400 {
				d := c.Device(records[(i+w)%3].ID)
				id, err := d.Series(fmt.Append(nil, "m", i%100), devices.Kind(i%2))
				if _, ok := told.Load(id); !ok || err != nil {
					t.Errorf("series %d, %v: told %v", id, err, ok)
					return
				}
				c.Name(id)
				c.Groups()
				c.DevicesIn("p")
				d.AllSeries()
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for i := range 50 {
				s.mu.Lock()
				if i%2 == 0 {
					delete(s.devices, "d3")
				} else {
					s.devices["d3"] = records[3]
				}
				s.mu.Unlock()
				if err := c.Refresh(context.Background(), Change{Topic: DevicesChanged}); err != nil {
					t.Error(err)
				}
				_ = c.Refresh(context.Background(), Change{Topic: AccessChanged})
			}
		})
	}
	wg.Wait()
	if seen != 300 || len(c.Device("d0").AllSeries()) != 100 {
		t.Errorf("%d series, want 300", seen)
	}
}

func BenchmarkSeries(b *testing.B) {
	c, _ := loaded(b, Config{}, device("d"))
	metric := []byte("temp")
	for b.Loop() {
		c.Device("d").Series(metric, devices.Float)
	}
}

// Known finds what was made and leaves its kind alone, which Resolve does not.
func TestKnown(t *testing.T) {
	c, _ := loaded(t, Config{}, device("a"))
	id, ok := c.Resolve([]byte("a"), []byte("temp"), devices.String)
	if !ok {
		t.Fatal("no series")
	}
	f := func(device, metric string, want devices.SeriesID) {
		t.Helper()
		if got, ok := c.Known([]byte(device), []byte(metric)); got != want || ok != (want != 0) {
			t.Errorf("%s/%s is %d, %v; want %d", device, metric, got, ok, want)
		}
	}
	f("a", "temp", id)
	f("a", "humidity", 0)
	f("b", "temp", 0)
	if s, _, _ := c.Series(id); s.Kind != devices.String {
		t.Errorf("the kind is %v now", s.Kind)
	}
}
