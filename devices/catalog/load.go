package catalog

import (
	"context"
	"fmt"
	"slices"

	"millrace/devices"
)

// Load reads everything; it is called once before the catalog is used, and again when changes may have been missed.
// When the store does not answer it returns the error and changes nothing.
func (c *Catalog) Load(ctx context.Context) error {
	if err := c.lockRefresh(ctx); err != nil {
		return err
	}
	defer func() { <-c.refresh }()
	records, err := c.loader.LoadDevices(ctx, nil)
	if err != nil {
		return fmt.Errorf("load devices: %w", err)
	}
	groups, metrics, err := c.loader.LoadGroups(ctx)
	if err != nil {
		return fmt.Errorf("load groups: %w", err)
	}
	a, err := c.loader.LoadAccess(ctx)
	if err != nil {
		return fmt.Errorf("load access: %w", err)
	}
	var e Event
	c.applyGroups(groups, metrics, &e)
	c.applyDevices(records, nil, &e)
	c.access.Store(newAccess(a, c.access.Load()))
	e.Access = true
	c.tell(e)
	return nil
}

// Refresh reads again what the change names, then tells the watchers. When the store does not answer it returns the error
// and changes nothing.
func (c *Catalog) Refresh(ctx context.Context, ch Change) error {
	if err := c.lockRefresh(ctx); err != nil {
		return err
	}
	defer func() { <-c.refresh }()
	var e Event
	switch ch.Topic {
	case DevicesChanged:
		if ch.Devices != nil && len(ch.Devices) == 0 {
			return nil
		}
		records, err := c.loader.LoadDevices(ctx, ch.Devices)
		if err != nil {
			return fmt.Errorf("refresh devices: %w", err)
		}
		c.applyDevices(records, ch.Devices, &e)
	case GroupsChanged:
		groups, metrics, err := c.loader.LoadGroups(ctx)
		if err != nil {
			return fmt.Errorf("refresh groups: %w", err)
		}
		c.applyGroups(groups, metrics, &e)
	case AccessChanged:
		a, err := c.loader.LoadAccess(ctx)
		if err != nil {
			return fmt.Errorf("refresh access: %w", err)
		}
		c.access.Store(newAccess(a, c.access.Load()))
		e.Access = true
	case HubsChanged:
		return nil
	default:
		return fmt.Errorf("refresh: unknown topic %q", ch.Topic)
	}
	c.tell(e)
	return nil
}

func (c *Catalog) lockRefresh(ctx context.Context) error {
	select {
	case c.refresh <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// applyDevices makes the catalog agree with records, which hold those of ids (nil: all) that exist.
func (c *Catalog) applyDevices(records []DeviceRecord, ids []devices.ID, e *Event) {
	there := make(map[devices.ID]bool, len(records))
	for _, r := range records {
		there[r.ID] = true
		c.applyDevice(r, e)
	}
	if ids == nil {
		c.mu.RLock()
		for id := range c.devices {
			ids = append(ids, id)
		}
		c.mu.RUnlock()
	}
	for _, id := range ids {
		if d := c.Device(id); d != nil && !there[id] {
			c.remove(d, e)
		}
	}
}

func (c *Catalog) applyDevice(from DeviceRecord, e *Event) {
	now := newRecord(from)
	d, before := c.Device(from.ID), &record{}
	if d != nil {
		before = d.rec.Load()
		d.rec.Store(now)
	} else {
		d = &Device{catalog: c, id: from.ID, series: make(map[string]*series, len(from.Series))}
		d.rec.Store(now)
	}
	known := d.AllSeries()
	d.addStored(from.Series)
	if !now.sameSettings(before) {
		e.Series = append(e.Series, known...)
	}
	e.Devices = append(e.Devices, d.id)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.devices[d.id] = d
	c.index(d, before, now)
}

// addStored adds the series that the store has and we have not seen. The kinds of those that we have are newer than the
// store's.
func (d *Device) addStored(stored []devices.Series) {
	d.making.Lock()
	defer d.making.Unlock()
	var added []*series
	d.mu.RLock()
	for _, s := range stored {
		if d.series[s.Metric] == nil && devices.ValidMetric(s.Metric) {
			added = append(added, d.add(s.Metric, s.Kind))
		}
	}
	d.mu.RUnlock()
	if len(added) == 0 {
		return
	}
	e := Event{Series: make([]devices.SeriesID, len(added))}
	for i, s := range added {
		e.Series[i] = s.id
	}
	d.catalog.tell(e)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range added {
		d.series[s.metric] = s
	}
}

func (c *Catalog) remove(d *Device, e *Event) {
	before := d.rec.Load()
	gone := *before
	gone.State, gone.Groups, gone.credentials, gone.gone = devices.Disabled, nil, nil, true
	d.making.Lock() // after this no series is made
	d.rec.Store(&gone)
	d.making.Unlock()
	e.Removed = append(e.Removed, d.AllSeries()...)
	e.Devices = append(e.Devices, d.id)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.devices, d.id)
	c.index(d, before, &gone)
}

// index moves a device between groups and fingerprints. The caller holds mu.
func (c *Catalog) index(d *Device, before, now *record) {
	for _, p := range devices.WithAncestors(before.Groups) {
		delete(c.members[p], d)
		if len(c.members[p]) == 0 {
			delete(c.members, p)
		}
	}
	for _, p := range devices.WithAncestors(now.Groups) {
		if c.members[p] == nil {
			c.members[p] = make(map[*Device]struct{})
		}
		c.members[p][d] = struct{}{}
	}
	for _, cr := range before.credentials {
		if cr.Kind == devices.X509Credential && len(cr.Hash) == 32 && c.fingerprints[[32]byte(cr.Hash)] == d {
			delete(c.fingerprints, [32]byte(cr.Hash))
		}
	}
	for _, cr := range now.credentials {
		if cr.Kind == devices.X509Credential && len(cr.Hash) == 32 {
			c.fingerprints[[32]byte(cr.Hash)] = d
		}
	}
}

// applyGroups makes groups and the settings of metrics those given.
func (c *Catalog) applyGroups(groups []devices.Group, metrics []devices.Metric, e *Event) {
	before := c.site.Load()
	now := &site{groups: slices.Clone(groups), metrics: make(map[string]devices.Metric, len(metrics))}
	for i := range now.groups {
		now.groups[i].Devices = 0 // counted when asked
	}
	slices.SortFunc(now.groups, func(a, b devices.Group) int { return comparePaths(a.Path, b.Path) })
	for _, m := range metrics {
		now.metrics[m.Name] = m
	}
	c.site.Store(now)
	e.Groups = !slices.EqualFunc(before.groups, now.groups, func(a, b devices.Group) bool {
		return a.Path == b.Path && a.Label == b.Label && a.Tick == b.Tick
	})
	changed := make(map[string]bool)
	for _, one := range []map[string]devices.Metric{before.metrics, now.metrics} {
		for name := range one {
			a, b := before.metrics[name], now.metrics[name]
			if a.Label != b.Label || a.Unit != b.Unit || !equal(a.Low, b.Low) || !equal(a.High, b.High) {
				changed[name] = true
			}
		}
	}
	if len(changed) > 0 {
		for _, s := range *c.table.Load() {
			if changed[s.metric] && !s.device.rec.Load().gone {
				e.Series = append(e.Series, s.id)
			}
		}
	}
}
