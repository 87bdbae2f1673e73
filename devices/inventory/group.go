package inventory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/devices"
)

// Groups returns every group c may view, sorted by path.
func (v *Inventory) Groups(_ context.Context, c Caller) ([]devices.Group, error) {
	if err := signedIn(c); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(v.catalog.Groups(), func(g devices.Group) bool { return !c.Can(devices.Viewer, g.Path) }), nil
}

// Group returns one.
func (v *Inventory) Group(ctx context.Context, c Caller, path devices.GroupPath) (devices.Group, error) {
	if err := needGroup(c, devices.Viewer, path); err != nil {
		return devices.Group{}, fmt.Errorf("group %s: %w", path, err)
	}
	return v.store.Group(ctx, path)
}

// CreateGroup also makes the groups missing above it. The caller must be admin of the path above.
func (v *Inventory) CreateGroup(ctx context.Context, c Caller, g devices.Group) (devices.Group, error) {
	if err := signedIn(c); err != nil {
		return devices.Group{}, err
	}
	if !c.CanSomewhere(devices.Admin) {
		return devices.Group{}, devices.ErrForbidden
	}
	if err := g.Validate(); err != nil {
		return devices.Group{}, err
	}
	if !c.Can(devices.Admin, g.Path.Parent()) {
		return devices.Group{}, fmt.Errorf("group %s: %w", g.Path, devices.ErrForbidden)
	}
	g, err := v.store.CreateGroup(ctx, c.Actor(), g)
	if err != nil {
		return devices.Group{}, err
	}
	return g, v.apply(ctx, groupsChanged)
}

// UpdateGroup changes label, tick or retention. What a shorter retention no longer keeps is deleted within the hour.
func (v *Inventory) UpdateGroup(ctx context.Context, c Caller, path devices.GroupPath, p GroupPatch) (devices.Group, error) {
	if err := needGroup(c, devices.Admin, path); err != nil {
		return devices.Group{}, fmt.Errorf("group %s: %w", path, err)
	}
	g, err := v.store.UpdateGroup(ctx, c.Actor(), path, func(g *devices.Group) error {
		set(&g.Label, p.Label)
		set(&g.Tick, p.Tick)
		set(&g.Retention, p.Retention)
		return g.Validate()
	})
	if err != nil {
		return devices.Group{}, err
	}
	return g, v.apply(ctx, groupsChanged)
}

// DeleteGroup deletes the group and all below it, with their bindings. Devices stay, unless withDevices is set: then those that are in
// no other group go, too, with all that belongs to them and is recorded of them.
func (v *Inventory) DeleteGroup(ctx context.Context, c Caller, path devices.GroupPath, withDevices bool) error {
	if err := needGroup(c, devices.Admin, path); err != nil {
		return fmt.Errorf("group %s: %w", path, err)
	}
	left, deleted, err := v.store.DeleteGroup(ctx, c.Actor(), path, withDevices)
	if err != nil {
		return err
	}
	return v.apply(ctx, accessChanged, devicesChanged(append(left, deleted...)...), groupsChanged)
}

// Series returns a page of those the caller may see, by device and metric.
func (v *Inventory) Series(_ context.Context, c Caller, f SeriesFilter) (devices.List[devices.Series], error) {
	var found devices.List[devices.Series]
	if err := signedIn(c); err != nil {
		return found, err
	}
	afterDevice, afterMetric, _ := strings.Cut(f.After, "/") // neither holds a slash
	search := strings.ToLower(f.Search)
	for _, d := range v.catalog.DevicesIn(f.Group) {
		if string(d.ID()) < afterDevice || f.Device != "" && d.ID() != f.Device || !c.CanAny(devices.Viewer, d.Info().Groups) {
			continue
		}
		var ofDevice []devices.Series
		for _, id := range d.AllSeries() {
			s, _, ok := v.catalog.Series(id)
			if !ok || f.Metric != "" && s.Metric != f.Metric || string(d.ID()) == afterDevice && s.Metric <= afterMetric {
				continue
			}
			if search == "" || strings.Contains(strings.ToLower(string(s.Device)+"/"+s.Metric), search) {
				ofDevice = append(ofDevice, s)
			}
		}
		slices.SortFunc(ofDevice, func(a, b devices.Series) int { return cmp.Compare(a.Metric, b.Metric) })
		found.Items = append(found.Items, ofDevice...)
		if size := f.Size(); len(found.Items) > size {
			found.Items = found.Items[:size]
			found.Next = string(found.Items[size-1].Device) + "/" + found.Items[size-1].Metric
			break
		}
	}
	return found, nil
}

// UpdateSeries changes the own settings of a series, for admins of one of its device's groups.
func (v *Inventory) UpdateSeries(ctx context.Context, c Caller, device devices.ID, metric string, s Settings) (devices.Series, error) {
	if _, err := v.device(ctx, c, devices.Admin, device); err != nil {
		return devices.Series{}, err
	}
	there, err := v.seriesOf(device, metric)
	if err != nil {
		return devices.Series{}, err
	}
	_, err = v.store.UpdateSeries(ctx, c.Actor(), device, metric, there.Kind, func(now *devices.Series) error {
		set(&now.Label, s.Label)
		set(&now.Unit, s.Unit)
		set(&now.Low, s.Low)
		set(&now.High, s.High)
		set(&now.ExpectedInterval, s.ExpectedInterval)
		return validSettings(now.Label, now.Unit, now.Low, now.High, now.ExpectedInterval)
	})
	if err != nil {
		return devices.Series{}, err
	}
	if err := v.apply(ctx, devicesChanged(device)); err != nil {
		return devices.Series{}, err
	}
	return v.seriesOf(device, metric)
}

// seriesOf finds one in the catalog: it may be too new for the store.
func (v *Inventory) seriesOf(device devices.ID, metric string) (devices.Series, error) {
	if d := v.catalog.Device(device); d != nil {
		for _, id := range d.AllSeries() {
			if _, name := v.catalog.Name(id); name == metric {
				if s, _, ok := v.catalog.Series(id); ok {
					return s, nil
				}
			}
		}
	}
	return devices.Series{}, fmt.Errorf("series %s/%s: %w", device, metric, devices.ErrNotFound)
}

// Metrics returns the metrics of the series the caller may see, and with a role on the site also those that have only
// settings, by name.
func (v *Inventory) Metrics(_ context.Context, c Caller) ([]devices.Metric, error) {
	if err := signedIn(c); err != nil {
		return nil, err
	}
	all := v.catalog.Metrics()
	if c.Can(devices.Viewer, devices.Site) {
		return all, nil
	}
	seen := make(map[string]bool)
	for _, d := range v.catalog.DevicesIn(devices.Site) {
		if c.CanAny(devices.Viewer, d.Info().Groups) {
			for _, id := range d.AllSeries() {
				_, metric := v.catalog.Name(id)
				seen[metric] = true
			}
		}
	}
	return slices.DeleteFunc(all, func(m devices.Metric) bool { return !seen[m.Name] }), nil
}

// UpdateMetric sets the site-wide defaults of a metric; site admins only.
func (v *Inventory) UpdateMetric(ctx context.Context, c Caller, name string, s Settings) (devices.Metric, error) {
	if err := needSite(c); err != nil {
		return devices.Metric{}, err
	}
	if !devices.ValidMetric(name) {
		return devices.Metric{}, devices.Invalid("name", "is no name of a metric")
	}
	if s.ExpectedInterval != nil {
		return devices.Metric{}, devices.Invalid("expectedIntervalMs", "belongs to a device or a series")
	}
	m, err := v.store.UpdateMetric(ctx, c.Actor(), name, func(now *devices.Metric) error {
		set(&now.Label, s.Label)
		set(&now.Unit, s.Unit)
		set(&now.Low, s.Low)
		set(&now.High, s.High)
		return validSettings(now.Label, now.Unit, now.Low, now.High, 0)
	})
	if err != nil {
		return devices.Metric{}, err
	}
	return m, v.apply(ctx, groupsChanged)
}

func validSettings(label, unit string, low, high *float64, interval time.Duration) error {
	switch {
	case len(label) > 200:
		return devices.Invalid("label", "is longer than 200 bytes")
	case len(unit) > 40:
		return devices.Invalid("unit", "is longer than 40 bytes")
	case low != nil && !devices.Finite(*low):
		return devices.Invalid("low", "must be a finite number")
	case high != nil && !devices.Finite(*high):
		return devices.Invalid("high", "must be a finite number")
	case low != nil && high != nil && *low > *high:
		return devices.Invalid("low", "is above high")
	case interval < 0 || interval > 366*24*time.Hour:
		return devices.Invalid("expectedIntervalMs", "must be between 0 (that of the device, or learned) and a year")
	}
	return nil
}
