package event

import (
	"slices"

	"millrace/devices/hubs"
)

// Wants reports whether anybody wants to hear of a system event of a hub.
func (d *Dispatcher) Wants(hub, event string) bool {
	s := d.source.Hub(hub)
	return slices.ContainsFunc(s.Handlers, func(h hubs.Handler) bool { return slices.Contains(h.SystemEvents, event) }) ||
		slices.ContainsFunc(s.Listeners, func(l hubs.Listener) bool { return slices.Contains(l.SystemEvents, event) })
}

// Takes reports whether anybody wants a user event of a hub.
func (d *Dispatcher) Takes(hub, event string) bool {
	s := d.source.Hub(hub)
	return slices.ContainsFunc(s.Handlers, func(h hubs.Handler) bool { return Matches(h.UserEvents, event) }) ||
		slices.ContainsFunc(s.Listeners, func(l hubs.Listener) bool { return Matches(l.UserEvents, event) })
}
