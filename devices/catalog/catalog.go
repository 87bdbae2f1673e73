// Package catalog is the inventory in memory: what intake, live delivery and sign-in must know without asking Postgres.
// It is loaded from the store at start and refreshed after each Change; while Postgres is away it goes on with
// what it has. It also gives each series its SeriesID at first sight, with no help from the store.
//
// All methods are safe for concurrent use. Reads on the hot path (Device, Series of a known metric, Name) take no lock that a
// writer holds for longer than a map insert.
package catalog

import (
	"context"

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
)

// A Change names what is to be read again.
type Change struct {
	Topic   Topic        `json:"topic"`
	Devices []devices.ID `json:"devices,omitempty"` // with DevicesChanged; nil: all
}

// An Event tells a watcher what is different now in the catalog. Watchers run in order, one event at a time, on the goroutine
// that made the change, after it is visible; they must be quick, and must not call Refresh.
type Event struct {
	Series  []devices.SeriesID // added or whose settings or groups changed: ask Series
	Removed []devices.SeriesID // gone with their device
	Groups  bool               // the set of groups or a setting of one changed: ask Groups
	Access  bool               // users, tokens or bindings changed: ask Principal again
	Devices []devices.ID       // state, groups or credentials changed, or gone: ask Device
}
