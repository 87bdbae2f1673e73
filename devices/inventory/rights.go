package inventory

import (
	"context"
	"fmt"
	"time"

	"millrace/devices"
	"millrace/devices/catalog"
)

// Inventory is the use cases. It is safe for concurrent use.
//
// Who may: viewers see what is in their groups. Admins of a path manage devices, groups, bindings and API tokens there and
// below: a device can be edited by an admin of any of its groups, moved in or out of a group by that group's, deleted by who
// is admin of all of them. Users, the defaults of metrics and the audit are for admins of the site; admins of a group may list
// users, to give them rights.
type Inventory struct {
	store    Store
	catalog  *catalog.Catalog
	hashing  chan struct{} // a place for each password being hashed: it takes much memory
	sessions sessionCache
	throttle throttle
}

// New returns the use cases over a store; changes are applied to the catalog.
func New(store Store, cat *catalog.Catalog) *Inventory {
	return &Inventory{store: store, catalog: cat, hashing: make(chan struct{}, hashesAtOnce)}
}

// applyTimeout bounds the reading back of a change that was written.
const applyTimeout = 10 * time.Second

// apply brings changes that were written into force here. It goes on when the caller leaves.
func (v *Inventory) apply(ctx context.Context, changes ...catalog.Change) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	for _, ch := range changes {
		if err := v.catalog.Refresh(ctx, ch); err != nil {
			return fmt.Errorf("the change is stored, but not in force yet: %w", err)
		}
	}
	return nil
}

var (
	accessChanged = catalog.Change{Topic: catalog.AccessChanged}
	groupsChanged = catalog.Change{Topic: catalog.GroupsChanged}
)

func devicesChanged(ids ...devices.ID) catalog.Change {
	return catalog.Change{Topic: catalog.DevicesChanged, Devices: append([]devices.ID{}, ids...)}
}

// signedIn is the first question of each use case.
func signedIn(c Caller) error {
	if c.Principal == nil || !c.Expires.IsZero() && !time.Now().Before(c.Expires) {
		return devices.ErrUnauthorized
	}
	return nil
}

// refusal is what somebody without the right gets: what can't be seen is not there.
func refusal(sees bool) error {
	if sees {
		return devices.ErrForbidden
	}
	return devices.ErrNotFound
}

// needSite asks for an admin of the site.
func needSite(c Caller) error {
	if err := signedIn(c); err != nil {
		return err
	}
	if !c.SiteAdmin() {
		return devices.ErrForbidden
	}
	return nil
}

// needGroup asks for a role on a path. Site is no secret.
func needGroup(c Caller, role devices.Role, p devices.GroupPath) error {
	if err := signedIn(c); err != nil {
		return err
	}
	if !c.Can(role, p) {
		return refusal(p == devices.Site || c.Can(devices.Viewer, p))
	}
	return nil
}

// needDevice asks for a role in any of a device's groups.
func needDevice(c Caller, role devices.Role, groups []devices.GroupPath) error {
	if !c.CanAny(role, groups) {
		return refusal(c.CanAny(devices.Viewer, groups))
	}
	return nil
}

// paths are where a caller holds a role, as a filter: nil for everywhere.
func paths(c Caller, role devices.Role) []devices.GroupPath {
	in := []devices.GroupPath{}
	for _, b := range c.Bindings {
		if b.Role.Includes(role) {
			if b.Group == devices.Site {
				return nil
			}
			in = append(in, b.Group)
		}
	}
	return in
}

// within limits the paths asked for (nil: all) to those allowed (nil: all).
func within(asked, allowed []devices.GroupPath) []devices.GroupPath {
	if allowed == nil {
		return asked
	}
	if asked == nil {
		return allowed
	}
	both := []devices.GroupPath{}
	for _, a := range asked {
		for _, b := range allowed {
			if b.Contains(a) {
				both = append(both, a)
			} else if a.Contains(b) {
				both = append(both, b)
			}
		}
	}
	return both
}
