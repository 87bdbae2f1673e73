// Package inventory holds the use cases of the inventory: each checks the caller's rights, validates, writes through the
// Store (which audits in the same transaction), and refreshes the catalog before it returns, so that what was written is in
// force at once. The REST API, the admin pages and the command line are thin layers above it.
//
// What a caller may not see answers devices.ErrNotFound; what it sees but may not do, devices.ErrForbidden.
package inventory

import (
	"time"

	"millrace/devices"
)

// A Caller is who asks, and from where.
type Caller struct {
	*devices.Principal
	IP      string
	Session []byte // devices.Session.Hash when signed in by a cookie: the session that outlives a change of password
}

// Actor is the caller for the audit.
func (c Caller) Actor() devices.Actor {
	if c.Principal == nil {
		return devices.Actor{IP: c.IP}
	}
	return devices.Actor{Kind: c.Kind, ID: c.ID, Name: c.Name, IP: c.IP}
}

// A DevicePatch changes the fields that are not nil.
type DevicePatch struct {
	Label            *string
	Type             *string
	Attributes       *[]byte
	State            *devices.State
	Groups           *[]devices.GroupPath
	ExpectedInterval *time.Duration
}

// A GroupPatch changes the fields that are not nil.
type GroupPatch struct {
	Label     *string
	Tick      *time.Duration
	Retention **int // a pointer to nil: as in the group above
}

// A UserPatch changes the fields that are not nil.
type UserPatch struct {
	Name     *string
	Email    *string
	Disabled *bool
	Password *string
}

// Settings of a metric or of one series; nil leaves a field as it is, a pointer to nil clears a limit.
type Settings struct {
	Label            *string
	Unit             *string
	Low, High        **float64
	ExpectedInterval *time.Duration // series only
}

// A CredentialRequest asks for a new credential: a token unless Fingerprint (SHA-256 of the certificate, hex) is set.
type CredentialRequest struct {
	Fingerprint string
	Expires     *time.Time
}

// A TokenRequest asks for an API token with one binding.
type TokenRequest struct {
	Name    string
	Role    devices.Role
	Group   devices.GroupPath
	Expires *time.Time
}

// A SeriesFilter picks series.
type SeriesFilter struct {
	devices.Page
	Group  devices.GroupPath // in it or below; Site: all one may see
	Device devices.ID        // "" all
	Metric string            // exact; "" all
	Search string            // part of device/metric
}
