package catalog

import (
	"context"

	"millrace/devices"
)

// Config bounds what devices can make by themselves.
type Config struct {
	SeriesPerDevice int `default:"1000" help:"Series a device may have; samples of further metrics are refused."`
}

// Catalog is the inventory in memory.
type Catalog struct{}

// New returns an empty catalog.
func New(c Config, l Loader) *Catalog { panic("stub") }

// Load reads everything; it is called once before the catalog is used, and again when changes may have been missed.
func (c *Catalog) Load(ctx context.Context) error { panic("stub") }

// Refresh reads again what the change names, then tells the watchers.
func (c *Catalog) Refresh(ctx context.Context, ch Change) error { panic("stub") }

// Watch calls f for each event from now on until cancel.
func (c *Catalog) Watch(f func(Event)) (cancel func()) { panic("stub") }

// Device is a device in memory. The pointer stays valid for the life of the process; after the device is deleted State
// is Disabled and series can't be added.
type Device struct{}

func (d *Device) ID() devices.ID       { panic("stub") }
func (d *Device) State() devices.State { panic("stub") }

// Info returns a copy with Groups as given.
func (d *Device) Info() devices.Device { panic("stub") }

// Series returns the id of a metric, making it at first sight. ErrInvalid: no valid name; ErrTooLarge: over SeriesPerDevice.
// A known metric costs one map read and no allocation. The kind is remembered (Int widens to Float).
func (d *Device) Series(metric []byte, k devices.Kind) (devices.SeriesID, error) { panic("stub") }

// AllSeries returns the ids of its series in order of first sight.
func (d *Device) AllSeries() []devices.SeriesID { panic("stub") }

// Device returns the device with this id, also a disabled one; nil if there is none.
func (c *Catalog) Device(id devices.ID) *Device { panic("stub") }

// DeviceByToken signs a device in: active, token known and not expired; else ErrUnauthorized. It returns the credential's id, too.
func (c *Catalog) DeviceByToken(id devices.ID, token string) (*Device, string, error) { panic("stub") }

// DeviceByFingerprint signs a device in by the SHA-256 of its certificate.
func (c *Catalog) DeviceByFingerprint(sum [32]byte) (*Device, string, error) { panic("stub") }

// CredentialValid reports whether a device is active and the credential it signed in with is still there and not expired.
func (c *Catalog) CredentialValid(id devices.ID, credential string) bool { panic("stub") }

// Name returns device and metric of a series in constant time without allocation; "" for an unknown id.
func (c *Catalog) Name(id devices.SeriesID) (devices.ID, string) { panic("stub") }

// Series returns the effective settings of a series and the groups its device is in, as given; false when it is gone.
func (c *Catalog) Series(id devices.SeriesID) (devices.Series, []devices.GroupPath, bool) {
	panic("stub")
}

// Groups returns all groups sorted by path, with device counts.
func (c *Catalog) Groups() []devices.Group { panic("stub") }

// DevicesIn returns the devices in a group or below (Site: all), sorted by id.
func (c *Catalog) DevicesIn(p devices.GroupPath) []*Device { panic("stub") }

// Principal returns who that is with the rights as of now; nil if unknown, disabled or expired.
func (c *Catalog) Principal(kind devices.PrincipalKind, id string) *devices.Principal { panic("stub") }

// PrincipalByToken looks an API token's secret up; nil if unknown or expired.
func (c *Catalog) PrincipalByToken(secret string) *devices.Principal { panic("stub") }
