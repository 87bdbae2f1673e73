package main

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"millrace/dashboard/api"
	"millrace/dashboard/operator"
	"millrace/dashboard/pages"
	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/hubs"
	"millrace/devices/postgres"
	"millrace/fanout"
	"millrace/ingest"
)

// bridge joins the parts that don't know each other: what the catalog learns goes to the engine, what the engine and intake
// know goes to the pages.
type bridge struct {
	catalog  *catalog.Catalog
	engine   *fanout.Engine
	pipeline *ingest.Pipeline

	mu     sync.Mutex // guards groups; nothing else is locked under it but the engine
	groups map[devices.GroupPath]time.Duration
}

// Deliver hands samples from the spine to the engine.
func (b *bridge) Deliver(_ uint64, samples []devices.Sample) { b.engine.Offer(samples) }

// known is the catalog for history's reader, which after an outage reads what others have read long ago: it must not take back kinds.
type known struct{ *catalog.Catalog }

// Resolve is spine.Resolver.
func (k known) Resolve(device, metric []byte, kind devices.Kind) (devices.SeriesID, bool) {
	if id, ok := k.Known(device, metric); ok {
		return id, true
	}
	return k.Catalog.Resolve(device, metric, kind)
}

// follow keeps the engine's groups and series as the catalog has them, from the start on, until the returned function is called.
func (b *bridge) follow() (cancel func()) {
	b.groups = map[devices.GroupPath]time.Duration{}
	cancel = b.catalog.Watch(b.changed)
	// What was there before. What changes meanwhile is set twice, at worst; the settings are read anew each time.
	b.setGroups()
	for _, d := range b.catalog.DevicesIn(devices.Site) {
		b.setSeries(d.AllSeries())
	}
	return cancel
}

func (b *bridge) changed(e catalog.Event) {
	if e.Groups {
		b.setGroups()
	}
	b.setSeries(e.Series)
	for _, id := range e.Removed {
		b.engine.RemoveSeries(id)
	}
}

func (b *bridge) setSeries(ids []devices.SeriesID) {
	for _, id := range ids {
		if s, groups, ok := b.catalog.Series(id); ok {
			b.engine.SetSeries(s, groups)
		}
	}
}

// setGroups tells the engine which groups are new, gone or have another tick.
func (b *bridge) setGroups() {
	b.mu.Lock()
	defer b.mu.Unlock()
	gone := maps.Clone(b.groups)
	for _, g := range b.catalog.Groups() {
		delete(gone, g.Path)
		if tick, known := b.groups[g.Path]; !known || tick != g.Tick {
			b.groups[g.Path] = g.Tick
			b.engine.SetGroup(g)
		}
	}
	// The deepest first.
	for _, p := range slices.SortedFunc(maps.Keys(gone), func(x, y devices.GroupPath) int { return cmp.Compare(len(y), len(x)) }) {
		delete(b.groups, p)
		b.engine.RemoveGroup(p)
	}
}

// restore gives each series its last value from before the restart.
func (b *bridge) restore(values []devices.LastValue) {
	batch := make([]devices.Sample, 0, len(values))
	for _, v := range values {
		id, ok := b.catalog.Resolve([]byte(v.Device), []byte(v.Metric), v.Kind)
		if !ok {
			continue
		}
		s := v.Sample
		s.Series = id
		batch = append(batch, s)
	}
	b.engine.Restore(batch)
}

// listen keeps the catalog as other processes change the inventory, until ctx ends.
func (b *bridge) listen(ctx context.Context, store *postgres.Store, settings *hubs.Registry, log *slog.Logger) error {
	loadHubs := func() {
		if err := settings.Load(ctx); err != nil && ctx.Err() == nil {
			log.Warn("settings of Web PubSub not read; they are when the connection is made again", "err", err)
		}
	}
	return store.Listen(ctx, log, func(ch catalog.Change) {
		if ch.Topic == catalog.HubsChanged {
			loadHubs()
			return
		}
		if err := b.catalog.Refresh(ctx, ch); err != nil && ctx.Err() == nil {
			log.Warn("a change of the inventory was not read; it is when the connection is made again", "topic", ch.Topic, "err", err)
		}
	}, func() {
		if err := b.catalog.Load(ctx); err != nil && ctx.Err() == nil {
			log.Warn("inventory not read", "err", err)
		}
		loadHubs()
	})
}

// groupStats is fanout's for the API.
func (b *bridge) groupStats(p devices.GroupPath) api.GroupStats {
	s := b.engine.GroupStats(p)
	return api.GroupStats{Series: s.Series, Stale: s.Stale, Viewers: s.Viewers, Rate: s.Rate, LastSample: s.LastSample}
}

func (b *bridge) apiRejects(device devices.ID, limit int) []api.Reject {
	all := b.pipeline.Rejects(device, limit)
	out := make([]api.Reject, len(all))
	for i, r := range all {
		out[i] = api.Reject{Device: r.Device, At: r.At, Topic: r.Topic, Head: string(r.Head), Reason: r.Reason, Kind: r.Kind}
	}
	return out
}

// Rejects is admin.Intake.
func (b *bridge) Rejects(device devices.ID, limit int) []pages.Reject {
	all := b.pipeline.Rejects(device, limit)
	out := make([]pages.Reject, len(all))
	for i, r := range all {
		out[i] = pages.Reject{Device: r.Device, At: time.UnixMilli(r.At), Topic: r.Topic, Head: r.Head, Reason: r.Reason, Kind: r.Kind}
	}
	return out
}

// DeviceValues is admin.Live.
func (b *bridge) DeviceValues(id devices.ID) []pages.LiveValue {
	d := b.catalog.Device(id)
	if d == nil {
		return nil
	}
	ids := d.AllSeries()
	var out []pages.LiveValue
	for i, v := range b.engine.LastValues(ids) {
		s, _, ok := b.catalog.Series(ids[i])
		if ok && v.OK {
			out = append(out, pages.LiveValue{Metric: s.Metric, Unit: s.Unit, Sample: v.Sample, Stale: v.Quality == devices.Stale})
		}
	}
	return out
}

// live is the engine as the operator's pages want it.
type liveValues struct{ *fanout.Engine }

func (l liveValues) GroupStats(p devices.GroupPath) operator.GroupStats {
	s := l.Engine.GroupStats(p)
	return operator.GroupStats{Series: s.Series, Stale: s.Stale, Rate: s.Rate, LastSample: s.LastSample}
}

func (l liveValues) LastValues(ids []devices.SeriesID) []operator.LastValue {
	all := l.Engine.LastValues(ids)
	out := make([]operator.LastValue, len(all))
	for i, v := range all {
		out[i] = operator.LastValue{Sample: v.Sample, OK: v.OK}
	}
	return out
}
