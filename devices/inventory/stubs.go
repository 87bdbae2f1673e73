package inventory

import (
	"context"
	"io"

	"millrace/devices"
	"millrace/devices/catalog"
)

type (
	ctx  = context.Context
	ID   = devices.ID
	Path = devices.GroupPath
)

// Store is declared by inventory in noun-sized interfaces; devices/postgres implements it.
type Store interface{}

// Inventory is the use cases.
type Inventory struct{}

// New returns the use cases over a store; changes are applied to the catalog.
func New(store Store, cat *catalog.Catalog) *Inventory { panic("stub") }

func (v *Inventory) Devices(ctx ctx, c Caller, f devices.DeviceFilter) (devices.List[devices.Device], error) {
	panic("stub")
}
func (v *Inventory) Device(ctx ctx, c Caller, id ID) (devices.Device, error) { panic("stub") }

// CreateDevice returns the device and its first token, shown this once.
func (v *Inventory) CreateDevice(ctx ctx, c Caller, d devices.Device) (devices.Device, string, error) {
	panic("stub")
}
func (v *Inventory) UpdateDevice(ctx ctx, c Caller, id ID, p DevicePatch) (devices.Device, error) {
	panic("stub")
}
func (v *Inventory) DeleteDevice(ctx ctx, c Caller, id ID) error { panic("stub") }

// ImportDevices reads CSV (header id,label,type,groups,state,expectedIntervalMs,attributes; groups joined by ';'), creates what is missing, updates the rest;
// one bad row is reported by line and nothing of it is written. With dryRun nothing is written at all.
func (v *Inventory) ImportDevices(ctx ctx, c Caller, r io.Reader, dryRun bool) (ImportReport, error) {
	panic("stub")
}
func (v *Inventory) ExportDevices(ctx ctx, c Caller, w io.Writer, f devices.DeviceFilter) error {
	panic("stub")
}

// ImportReport says what an import did, or with dryRun would do.
type ImportReport struct {
	Created, Updated, Unchanged int
	Tokens                      []ImportedToken // of created devices, shown this once
	Errors                      []ImportError
}

// ImportedToken is the first credential of a device made by an import.
type ImportedToken struct {
	Device ID     `json:"device"`
	Token  string `json:"token"`
}

// ImportError is one row that could not be taken.
type ImportError struct {
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

func (v *Inventory) Credentials(ctx ctx, c Caller, id ID) ([]devices.Credential, error) {
	panic("stub")
}
func (v *Inventory) CreateCredential(ctx ctx, c Caller, id ID, r CredentialRequest) (devices.Credential, string, error) {
	panic("stub")
}
func (v *Inventory) DeleteCredential(ctx ctx, c Caller, id ID, credential string) error {
	panic("stub")
}

// Groups returns every group c may view, sorted by path.
func (v *Inventory) Groups(ctx ctx, c Caller) ([]devices.Group, error)         { panic("stub") }
func (v *Inventory) Group(ctx ctx, c Caller, path Path) (devices.Group, error) { panic("stub") }

// CreateGroup also makes the groups missing above it.
func (v *Inventory) CreateGroup(ctx ctx, c Caller, g devices.Group) (devices.Group, error) {
	panic("stub")
}
func (v *Inventory) UpdateGroup(ctx ctx, c Caller, path Path, p GroupPatch) (devices.Group, error) {
	panic("stub")
}

// DeleteGroup deletes the group and all below it, with their bindings; devices stay.
func (v *Inventory) DeleteGroup(ctx ctx, c Caller, path Path) error { panic("stub") }

func (v *Inventory) Series(ctx ctx, c Caller, f SeriesFilter) (devices.List[devices.Series], error) {
	panic("stub")
}
func (v *Inventory) UpdateSeries(ctx ctx, c Caller, device ID, metric string, s Settings) (devices.Series, error) {
	panic("stub")
}
func (v *Inventory) Metrics(ctx ctx, c Caller) ([]devices.Metric, error) { panic("stub") }

// UpdateMetric sets the site-wide defaults of a metric; site admins only.
func (v *Inventory) UpdateMetric(ctx ctx, c Caller, name string, s Settings) (devices.Metric, error) {
	panic("stub")
}

func (v *Inventory) Users(ctx ctx, c Caller, p devices.Page) (devices.List[devices.User], error) {
	panic("stub")
}
func (v *Inventory) User(ctx ctx, c Caller, id string) (devices.User, error) { panic("stub") }
func (v *Inventory) CreateUser(ctx ctx, c Caller, u devices.User, password string) (devices.User, error) {
	panic("stub")
}
func (v *Inventory) UpdateUser(ctx ctx, c Caller, id string, p UserPatch) (devices.User, error) {
	panic("stub")
}
func (v *Inventory) DeleteUser(ctx ctx, c Caller, id string) error           { panic("stub") }
func (v *Inventory) ChangePassword(ctx ctx, c Caller, old, new string) error { panic("stub") }

// Bindings returns those c may see (admin of their path), filtered by what is not empty; group matches itself and below.
func (v *Inventory) Bindings(ctx ctx, c Caller, group Path, user, token string) ([]devices.Binding, error) {
	panic("stub")
}

// CreateBinding takes a user by id or e-mail; the caller must be admin of the path.
func (v *Inventory) CreateBinding(ctx ctx, c Caller, b devices.Binding) (devices.Binding, error) {
	panic("stub")
}
func (v *Inventory) DeleteBinding(ctx ctx, c Caller, id string) error { panic("stub") }

func (v *Inventory) Tokens(ctx ctx, c Caller, p devices.Page) (devices.List[devices.APIToken], error) {
	panic("stub")
}
func (v *Inventory) CreateToken(ctx ctx, c Caller, r TokenRequest) (devices.APIToken, string, error) {
	panic("stub")
}
func (v *Inventory) DeleteToken(ctx ctx, c Caller, id string) error { panic("stub") }
func (v *Inventory) Audit(ctx ctx, c Caller, f devices.AuditFilter) (devices.List[devices.AuditEntry], error) {
	panic("stub")
}

// SignIn returns the cookie's secret. Wrong credentials: ErrUnauthorized, audited, throttled per e-mail and IP (ErrRate).
func (v *Inventory) SignIn(ctx ctx, email, password, ip, agent string) (string, devices.Session, error) {
	panic("stub")
}
func (v *Inventory) SignOut(ctx ctx, secret string) error { panic("stub") }

// Session looks a cookie up; cached some seconds. The rights always come from the catalog.
func (v *Inventory) Session(ctx ctx, secret string) (devices.Session, *devices.Principal, error) {
	panic("stub")
}
