// Package catalog is the inventory in memory: what intake, live delivery and sign-in must know without asking Postgres.
// It is loaded from the store at start and refreshed after each Change; while Postgres is away it goes on with
// what it has. It also gives each series its SeriesID at first sight, with no help from the store.
//
// All methods are safe for concurrent use. Reads on the hot path (Device, Series of a known metric, Name) take no lock that a
// writer holds for longer than a map insert. Locks nest in this order: refresh, Device.making, events, then Catalog.mu or
// Device.mu; the last two are held for map operations only.
package catalog

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"millrace/devices"
)

// A Loader reads the inventory. devices/postgres has the one for production.
type Loader interface {
	// LoadDevices returns the devices with these ids, or all for nil; ids that don't exist are absent from the answer.
	LoadDevices(ctx context.Context, ids []devices.ID) ([]DeviceRecord, error)
	// LoadGroups returns all groups, the settings of all metrics.
	LoadGroups(ctx context.Context) ([]devices.Group, []devices.Metric, error)
	// LoadAccess returns all users, API tokens and bindings.
	LoadAccess(ctx context.Context) (Access, error)
}

// A DeviceRecord is a device with what belongs to it. Series hold the series' own settings only; what is zero there comes
// from the metric or the device.
type DeviceRecord struct {
	devices.Device
	Credentials []devices.Credential
	Series      []devices.Series
}

// Access is who may what.
type Access struct {
	Users    []devices.User
	Tokens   []devices.APIToken
	Bindings []devices.Binding
}

// A Topic says which part of the inventory changed.
type Topic string

// Parts of the inventory. The store sends them over Postgres NOTIFY to other processes, and Inventory applies them at once.
const (
	DevicesChanged Topic = "devices" // Change.Devices names them: created, edited, deleted, credentials, series settings
	GroupsChanged  Topic = "groups"  // groups, or settings of metrics
	AccessChanged  Topic = "access"  // users, tokens, bindings
	HubsChanged    Topic = "hubs"    // settings of Web PubSub: not the catalog's, its owner hears of it from the store
)

// A Change names what is to be read again.
type Change struct {
	Topic   Topic        `json:"topic"`
	Devices []devices.ID `json:"devices,omitempty"` // with DevicesChanged; nil: all
}

// An Event tells a watcher what is different now in the catalog. Watchers run in order, one event at a time, on the goroutine
// that made the change, after it is visible; they must be quick, and must not call Load or Refresh, nor make series
// (Device.Series, Resolve). A series that is new is given to nobody who asks for its metric before all watchers have seen it.
// The slices are shared by the watchers and not to be changed.
type Event struct {
	Series  []devices.SeriesID // added or whose settings or groups changed: ask Series
	Removed []devices.SeriesID // gone with their device
	Groups  bool               // the set of groups or a setting of one changed: ask Groups
	Access  bool               // users, tokens or bindings changed: ask Principal again
	Devices []devices.ID       // state, groups or credentials changed, or gone: ask Device
}

// Config bounds what devices can make by themselves.
type Config struct {
	SeriesPerDevice int `default:"1000" help:"Series a device may have; samples of further metrics are refused."`
}

// Catalog is the inventory in memory.
type Catalog struct {
	conf    Config
	loader  Loader
	refresh chan struct{} // held by the one Load or Refresh that is under way, so that answers are applied in order

	site   atomic.Pointer[site]
	access atomic.Pointer[access]
	table  atomic.Pointer[[]*series] // series n is at n-1; only ever appended to, by enter

	entering sync.Mutex // for appending to table

	mu           sync.RWMutex
	devices      map[devices.ID]*Device
	members      map[devices.GroupPath]map[*Device]struct{} // by each group and those above; no empty ones
	fingerprints map[[32]byte]*Device

	events   sync.Mutex // held while watchers run
	watchers []*watcher
}

// site is what there is of groups and metrics; immutable.
type site struct {
	groups  []devices.Group // sorted by path
	metrics map[string]devices.Metric
}

type watcher struct{ f func(Event) }

// New returns an empty catalog. SeriesPerDevice 0 means 1000.
func New(conf Config, l Loader) *Catalog {
	if conf.SeriesPerDevice <= 0 {
		conf.SeriesPerDevice = 1000
	}
	c := &Catalog{
		conf:         conf,
		loader:       l,
		refresh:      make(chan struct{}, 1),
		devices:      make(map[devices.ID]*Device),
		members:      make(map[devices.GroupPath]map[*Device]struct{}),
		fingerprints: make(map[[32]byte]*Device),
	}
	c.site.Store(&site{})
	c.access.Store(&access{})
	c.table.Store(new([]*series))
	return c
}

// Watch calls f for each event from now on until cancel, which waits for a call under way and so must not be called by f.
func (c *Catalog) Watch(f func(Event)) (cancel func()) {
	w := &watcher{f}
	c.events.Lock()
	defer c.events.Unlock()
	c.watchers = append(c.watchers, w)
	return func() {
		c.events.Lock()
		defer c.events.Unlock()
		c.watchers = slices.DeleteFunc(c.watchers, func(other *watcher) bool { return other == w })
	}
}

func (c *Catalog) tell(e Event) {
	c.events.Lock()
	defer c.events.Unlock()
	for _, w := range c.watchers {
		w.f(e)
	}
}

// Device returns the device with this id, also a disabled one; nil if there is none.
func (c *Catalog) Device(id devices.ID) *Device {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.devices[id]
}

// Name returns device and metric of a series in constant time without allocation; "" for an unknown id.
func (c *Catalog) Name(id devices.SeriesID) (devices.ID, string) {
	if s := c.series(id); s != nil {
		return s.device.id, s.metric
	}
	return "", ""
}

// Series returns the effective settings of a series and the groups its device is in, as given (shared: not to be changed);
// false when it is gone.
func (c *Catalog) Series(id devices.SeriesID) (devices.Series, []devices.GroupPath, bool) {
	s := c.series(id)
	if s == nil {
		return devices.Series{}, nil, false
	}
	r := s.device.rec.Load()
	if r.gone {
		return devices.Series{}, nil, false
	}
	return r.settings(s, c.site.Load().metrics[s.metric]), r.Groups, true
}

// Resolve is Device and Series in one for samples that were accepted before: they count against no limit. ok is false for a
// device that is not there, or was deleted. It copies what it keeps.
func (c *Catalog) Resolve(device, metric []byte, k devices.Kind) (id devices.SeriesID, ok bool) {
	c.mu.RLock()
	d := c.devices[devices.ID(device)]
	c.mu.RUnlock()
	if d == nil {
		return 0, false
	}
	id, err := d.find(metric, k, math.MaxInt)
	return id, err == nil
}

// Known returns the id of a series that Resolve or Device.Series has made; ok is false where there is none. Unlike these it learns nothing of a
// kind, so it is for who reads what is older than what others have read.
func (c *Catalog) Known(device, metric []byte) (id devices.SeriesID, ok bool) {
	c.mu.RLock()
	d := c.devices[devices.ID(device)]
	c.mu.RUnlock()
	if d == nil {
		return 0, false
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if s := d.series[string(metric)]; s != nil {
		return s.id, true
	}
	return 0, false
}

// Groups returns all groups sorted by path, with device counts.
func (c *Catalog) Groups() []devices.Group {
	groups := slices.Clone(c.site.Load().groups)
	c.mu.RLock()
	defer c.mu.RUnlock()
	for i := range groups {
		groups[i].Devices = len(c.members[groups[i].Path])
	}
	return groups
}

// Metrics returns the metrics that have settings, and all that some series has, sorted by name.
func (c *Catalog) Metrics() []devices.Metric {
	settings := maps.Clone(c.site.Load().metrics)
	if settings == nil {
		settings = make(map[string]devices.Metric)
	}
	for _, s := range *c.table.Load() {
		if _, there := settings[s.metric]; !there && !s.device.rec.Load().gone {
			settings[s.metric] = devices.Metric{Name: s.metric}
		}
	}
	return slices.SortedFunc(maps.Values(settings), func(a, b devices.Metric) int { return strings.Compare(a.Name, b.Name) })
}

// DevicesIn returns the devices in a group or below (Site: all), sorted by id.
func (c *Catalog) DevicesIn(p devices.GroupPath) []*Device {
	var in []*Device
	c.mu.RLock()
	if p == devices.Site {
		in = slices.AppendSeq(make([]*Device, 0, len(c.devices)), maps.Values(c.devices))
	} else {
		in = slices.AppendSeq(make([]*Device, 0, len(c.members[p])), maps.Keys(c.members[p]))
	}
	c.mu.RUnlock()
	slices.SortFunc(in, func(a, b *Device) int { return strings.Compare(string(a.id), string(b.id)) })
	return in
}

func (c *Catalog) series(id devices.SeriesID) *series {
	if table := *c.table.Load(); id > 0 && int(id) <= len(table) {
		return table[id-1]
	}
	return nil
}

// enter gives a series its number.
func (c *Catalog) enter(d *Device, metric string, k devices.Kind) *series {
	c.entering.Lock()
	defer c.entering.Unlock()
	table := *c.table.Load()
	s := &series{id: devices.SeriesID(len(table) + 1), device: d, metric: metric}
	s.kind.Store(uint32(k))
	table = append(table, s) // readers look at no more than the length they loaded
	c.table.Store(&table)
	return s
}

// comparePaths orders groups so that what is below one follows it at once.
func comparePaths(a, b devices.GroupPath) int {
	return strings.Compare(strings.ReplaceAll(string(a), "/", "\x00"), strings.ReplaceAll(string(b), "/", "\x00"))
}

func errGone(id devices.ID) error {
	return fmt.Errorf("device %s was deleted: %w", id, devices.ErrNotFound)
}

func errTooMany(id devices.ID, limit int) error {
	return fmt.Errorf("device %s has %d series, more are not taken: %w", id, limit, devices.ErrTooLarge)
}
