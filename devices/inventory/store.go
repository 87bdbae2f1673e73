package inventory

import (
	"context"

	"millrace/devices"
)

// Store keeps the inventory; devices/postgres has the one for production. What changes something writes an audit entry by the
// actor in the same transaction. A change function is called with the present state, which nobody else changes before
// the transaction ends; its error ends the transaction and is returned.
type Store interface {
	DeviceStore
	CredentialStore
	GroupStore
	SeriesStore
	UserStore
	BindingStore
	TokenStore
	SessionStore
	AuditStore
}

// DeviceStore keeps devices. Groups they are put in are made when they are missing.
type DeviceStore interface {
	Devices(ctx context.Context, f devices.DeviceFilter) (devices.List[devices.Device], error)
	Device(ctx context.Context, id devices.ID) (devices.Device, error)
	CreateDevice(ctx context.Context, by devices.Actor, d devices.Device, first devices.Credential) (devices.Device, error)
	UpdateDevice(ctx context.Context, by devices.Actor, id devices.ID, change func(*devices.Device) error) (devices.Device, error)
	DeleteDevice(ctx context.Context, by devices.Actor, id devices.ID, check func(devices.Device) error) error
}

// CredentialStore keeps devices' credentials.
type CredentialStore interface {
	Credentials(ctx context.Context, device devices.ID) ([]devices.Credential, error)
	CreateCredential(ctx context.Context, by devices.Actor, c devices.Credential) (devices.Credential, error)
	DeleteCredential(ctx context.Context, by devices.Actor, device devices.ID, id string) error
}

// GroupStore keeps groups. DeleteGroup also deletes what is below with all bindings and, if told so, the devices that are in no other
// group; it returns the devices that were in it, those that are left and those that are not.
type GroupStore interface {
	Group(ctx context.Context, path devices.GroupPath) (devices.Group, error)
	CreateGroup(ctx context.Context, by devices.Actor, g devices.Group) (devices.Group, error)
	UpdateGroup(ctx context.Context, by devices.Actor, path devices.GroupPath, change func(*devices.Group) error) (devices.Group, error)
	DeleteGroup(ctx context.Context, by devices.Actor, path devices.GroupPath, withDevices bool) (left, deleted []devices.ID, err error)
}

// SeriesStore keeps the settings of series and metrics.
type SeriesStore interface {
	UpdateSeries(ctx context.Context, by devices.Actor, device devices.ID, metric string, k devices.Kind, change func(*devices.Series) error) (devices.Series, error)
	UpdateMetric(ctx context.Context, by devices.Actor, name string, change func(*devices.Metric) error) (devices.Metric, error)
}

// UserStore keeps users. It refuses with ErrInvalid what would leave the site without an admin who can sign in.
type UserStore interface {
	Users(ctx context.Context, p devices.Page) (devices.List[devices.User], error)
	User(ctx context.Context, id string) (devices.User, error)
	UserByEmail(ctx context.Context, email string) (devices.User, error)
	CreateUser(ctx context.Context, by devices.Actor, u devices.User) (devices.User, error)
	UpdateUser(ctx context.Context, by devices.Actor, id string, change func(*devices.User) error, endSessions bool, keep []byte) (devices.User, error)
	DeleteUser(ctx context.Context, by devices.Actor, id string) error
	CreateFirstAdmin(ctx context.Context, by devices.Actor, u devices.User) (created bool, err error)
}

// BindingStore keeps role bindings.
type BindingStore interface {
	Bindings(ctx context.Context, path devices.GroupPath, user, token string) ([]devices.Binding, error)
	Binding(ctx context.Context, id string) (devices.Binding, error)
	CreateBinding(ctx context.Context, by devices.Actor, b devices.Binding) (devices.Binding, error)
	DeleteBinding(ctx context.Context, by devices.Actor, id string) error
}

// TokenStore keeps API tokens. Those of EnsureToken are in no list.
type TokenStore interface {
	Tokens(ctx context.Context, p devices.Page, paths []devices.GroupPath) (devices.List[devices.APIToken], error)
	Token(ctx context.Context, id string) (devices.APIToken, error)
	CreateToken(ctx context.Context, by devices.Actor, t devices.APIToken) (devices.APIToken, error)
	DeleteToken(ctx context.Context, by devices.Actor, id string) error
	EnsureToken(ctx context.Context, by devices.Actor, t devices.APIToken) error
}

// SessionStore keeps signed-in browsers.
type SessionStore interface {
	CreateSession(ctx context.Context, by devices.Actor, s devices.Session) error
	Session(ctx context.Context, hash []byte) (devices.Session, error)
	DeleteSession(ctx context.Context, hash []byte) error
}

// AuditStore keeps the audit.
type AuditStore interface {
	Audit(ctx context.Context, f devices.AuditFilter) (devices.List[devices.AuditEntry], error)
	AppendAudit(ctx context.Context, by devices.Actor, action, object string, detail any) error
}
