package catalog

import (
	"crypto/sha256"
	"crypto/subtle"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/devices"
)

// Device is a device in memory. The pointer stays valid for the life of the process; after the device is deleted State
// is Disabled and series can't be added. A device made again under the same id is another Device.
type Device struct {
	catalog *Catalog
	id      devices.ID
	rec     atomic.Pointer[record]
	all     atomic.Pointer[[]devices.SeriesID] // appended to by the holder of making

	making sync.Mutex // held while a series is made, watchers included

	mu     sync.RWMutex
	series map[string]*series
}

// record is what the store says of a device; immutable.
type record struct {
	devices.Device
	credentials []devices.Credential
	own         map[string]devices.Series // own settings by metric; nothing that is zero
	gone        bool
}

// series is one entry of the catalog's table; its number is its place in it.
type series struct {
	id     devices.SeriesID
	device *Device
	metric string
	kind   atomic.Uint32
}

// ID returns the device's id.
func (d *Device) ID() devices.ID { return d.id }

// State returns the state as of now.
func (d *Device) State() devices.State { return d.rec.Load().State }

// Info returns a copy with Groups as given. LastSeen is as of the last time the device was read from the store.
func (d *Device) Info() devices.Device {
	info := d.rec.Load().Device
	info.Groups = slices.Clone(info.Groups)
	info.Attributes = slices.Clone(info.Attributes)
	return info
}

// Series returns the id of a metric, making it at first sight. ErrInvalid: no valid name; ErrTooLarge: over SeriesPerDevice;
// ErrNotFound: the device was deleted. A known metric costs one map read and no allocation. The kind is remembered: it follows
// the last value, except that Int widens to Float for good.
func (d *Device) Series(metric []byte, k devices.Kind) (devices.SeriesID, error) {
	return d.find(metric, k, d.catalog.conf.SeriesPerDevice)
}

// AllSeries returns the ids of its series in order of first sight. The slice is shared: not to be changed.
func (d *Device) AllSeries() []devices.SeriesID {
	if all := d.all.Load(); all != nil {
		return slices.Clip(*all)
	}
	return nil
}

func (d *Device) find(metric []byte, k devices.Kind, limit int) (devices.SeriesID, error) {
	d.mu.RLock()
	s := d.series[string(metric)]
	d.mu.RUnlock()
	if s == nil {
		return d.make(string(metric), k, limit)
	}
	if seen := devices.Kind(s.kind.Load()); seen != k && !(seen == devices.Float && k == devices.Int) {
		s.kind.Store(uint32(k))
		d.catalog.tell(Event{Series: []devices.SeriesID{s.id}})
	}
	return s.id, nil
}

// make adds a series that devices sent, and tells the watchers before anybody else can find it by its metric.
func (d *Device) make(metric string, k devices.Kind, limit int) (devices.SeriesID, error) {
	if !devices.ValidMetric(metric) {
		return 0, devices.Invalid("metric", "%q is no metric: 1 to %d bytes of UTF-8 without / + # * and control characters, no space at the ends",
			clip(metric), devices.MaxMetricName)
	}
	d.making.Lock()
	defer d.making.Unlock()
	d.mu.RLock()
	s, count := d.series[metric], len(d.series)
	d.mu.RUnlock()
	if s != nil { // somebody was faster
		return s.id, nil
	}
	if d.rec.Load().gone {
		return 0, errGone(d.id)
	}
	if count >= limit {
		return 0, errTooMany(d.id, limit)
	}
	s = d.add(metric, k)
	d.catalog.tell(Event{Series: []devices.SeriesID{s.id}})
	d.mu.Lock()
	d.series[metric] = s
	d.mu.Unlock()
	return s.id, nil
}

// add puts a series into the catalog's table and the device's list. The caller holds making, and adds it to d.series.
func (d *Device) add(metric string, k devices.Kind) *series {
	s := d.catalog.enter(d, metric, k)
	var all []devices.SeriesID
	if now := d.all.Load(); now != nil {
		all = *now
	}
	all = append(all, s.id) // readers look at no more than the length they loaded
	d.all.Store(&all)
	return s
}

// settings returns the effective settings of one of its series.
func (r *record) settings(s *series, m devices.Metric) devices.Series {
	e := r.own[s.metric]
	e.ID, e.Device, e.Metric, e.Kind = s.id, r.ID, s.metric, devices.Kind(s.kind.Load())
	if e.Label == "" {
		e.Label = m.Label
	}
	if e.Unit == "" {
		e.Unit = m.Unit
	}
	if e.Low == nil {
		e.Low = m.Low
	}
	if e.High == nil {
		e.High = m.High
	}
	if e.ExpectedInterval == 0 {
		e.ExpectedInterval = r.ExpectedInterval
	}
	return e
}

// newRecord takes over what the store returned.
func newRecord(from DeviceRecord) *record {
	r := &record{Device: from.Device, credentials: from.Credentials, own: make(map[string]devices.Series)}
	for _, s := range from.Series {
		if s.Label != "" || s.Unit != "" || s.Low != nil || s.High != nil || s.ExpectedInterval != 0 {
			r.own[s.Metric] = s
		}
	}
	return r
}

// sameSettings reports whether effective settings and groups of the series can't differ between two records.
func (r *record) sameSettings(o *record) bool {
	return r.ExpectedInterval == o.ExpectedInterval && slices.Equal(r.Groups, o.Groups) &&
		maps.EqualFunc(r.own, o.own, func(a, b devices.Series) bool {
			return a.Label == b.Label && a.Unit == b.Unit && a.ExpectedInterval == b.ExpectedInterval && equal(a.Low, b.Low) && equal(a.High, b.High)
		})
}

// DeviceByToken signs a device in: active, token known and not expired; else ErrUnauthorized. It returns the credential's
// id, too.
func (c *Catalog) DeviceByToken(id devices.ID, token string) (*Device, string, error) {
	sum := sha256.Sum256([]byte(token))
	d := c.Device(id)
	if d == nil {
		return nil, "", devices.ErrUnauthorized
	}
	r, now := d.rec.Load(), time.Now()
	if r.State == devices.Active {
		for i := range r.credentials {
			if cr := &r.credentials[i]; cr.Kind == devices.TokenCredential && subtle.ConstantTimeCompare(cr.Hash, sum[:]) == 1 && valid(cr, now) {
				return d, cr.ID, nil
			}
		}
	}
	return nil, "", devices.ErrUnauthorized
}

// DeviceByFingerprint signs a device in by the SHA-256 of its certificate.
func (c *Catalog) DeviceByFingerprint(sum [32]byte) (*Device, string, error) {
	c.mu.RLock()
	d := c.fingerprints[sum]
	c.mu.RUnlock()
	if d != nil {
		r, now := d.rec.Load(), time.Now()
		for i := range r.credentials {
			if cr := &r.credentials[i]; r.State == devices.Active && cr.Kind == devices.X509Credential && string(cr.Hash) == string(sum[:]) && valid(cr, now) {
				return d, cr.ID, nil
			}
		}
	}
	return nil, "", devices.ErrUnauthorized
}

// CredentialValid reports whether a device is active and the credential it signed in with is still there and not expired.
func (c *Catalog) CredentialValid(id devices.ID, credential string) bool {
	d := c.Device(id)
	if d == nil {
		return false
	}
	r, now := d.rec.Load(), time.Now()
	return r.State == devices.Active && slices.ContainsFunc(r.credentials, func(cr devices.Credential) bool {
		return cr.ID == credential && valid(&cr, now)
	})
}

func valid(cr *devices.Credential, now time.Time) bool {
	return cr.Expires == nil || now.Before(*cr.Expires)
}

func equal(a, b *float64) bool { return a == b || a != nil && b != nil && *a == *b }

// clip shortens a name for an error message.
func clip(s string) string {
	if len(s) > 2*devices.MaxMetricName {
		return s[:2*devices.MaxMetricName] + "…"
	}
	return s
}
