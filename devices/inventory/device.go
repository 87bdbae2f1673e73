package inventory

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/devices"
	"millrace/devices/catalog"
)

// Devices returns a page of those the caller may see, by id.
func (v *Inventory) Devices(ctx context.Context, c Caller, f devices.DeviceFilter) (devices.List[devices.Device], error) {
	if err := signedIn(c); err != nil {
		return devices.List[devices.Device]{}, err
	}
	if f.Groups = within(f.Groups, paths(c, devices.Viewer)); f.Groups != nil && len(f.Groups) == 0 {
		return devices.List[devices.Device]{}, nil
	}
	return v.store.Devices(ctx, f)
}

// Device returns one that the caller may see.
func (v *Inventory) Device(ctx context.Context, c Caller, id devices.ID) (devices.Device, error) {
	return v.device(ctx, c, devices.Viewer, id)
}

// device returns one in whose groups the caller holds the role.
func (v *Inventory) device(ctx context.Context, c Caller, role devices.Role, id devices.ID) (devices.Device, error) {
	if err := signedIn(c); err != nil {
		return devices.Device{}, err
	}
	d, err := v.store.Device(ctx, id)
	if err != nil {
		return devices.Device{}, err
	}
	if err := needDevice(c, role, d.Groups); err != nil {
		return devices.Device{}, fmt.Errorf("device %s: %w", id, err)
	}
	return d, nil
}

// CreateDevice returns the device and its first token, shown this once. State is active unless given. The caller must be admin
// of all its groups, of the site for none; groups that are missing are made.
func (v *Inventory) CreateDevice(ctx context.Context, c Caller, d devices.Device) (devices.Device, string, error) {
	d, token, err := v.createDevice(ctx, c, d)
	if err != nil {
		return devices.Device{}, "", err
	}
	return d, token, v.apply(ctx, v.deviceChanges(d)...)
}

func (v *Inventory) createDevice(ctx context.Context, c Caller, d devices.Device) (devices.Device, string, error) {
	d, err := prepareDevice(c, d)
	if err != nil {
		return devices.Device{}, "", err
	}
	secret := newSecret(deviceTokenPrefix)
	d, err = v.store.CreateDevice(ctx, c.Actor(), d, devices.Credential{Kind: devices.TokenCredential, Hint: hint(secret), Hash: hash(secret)})
	if err != nil {
		return devices.Device{}, "", err
	}
	return d, secret, nil
}

// prepareDevice checks a device to be made and who makes it.
func prepareDevice(c Caller, d devices.Device) (devices.Device, error) {
	if err := signedIn(c); err != nil {
		return d, err
	}
	if !c.CanSomewhere(devices.Admin) {
		return d, devices.ErrForbidden
	}
	if d.State == "" {
		d.State = devices.Active
	}
	d.Groups = tidy(d.Groups)
	if err := d.Validate(); err != nil {
		return d, err
	}
	if !c.CanAll(devices.Admin, d.Groups) {
		return d, fmt.Errorf("device %s in %s: %w", d.ID, pathList(d.Groups), devices.ErrForbidden)
	}
	return d, nil
}

// deviceChanges are to be applied after a device was written; its groups may be new.
func (v *Inventory) deviceChanges(written ...devices.Device) []catalog.Change {
	known := make(map[devices.GroupPath]bool)
	for _, g := range v.catalog.Groups() {
		known[g.Path] = true
	}
	var changes []catalog.Change
	ids := make([]devices.ID, len(written))
	for i, d := range written {
		ids[i] = d.ID
		if changes == nil && slices.ContainsFunc(devices.WithAncestors(d.Groups), func(p devices.GroupPath) bool { return !known[p] }) {
			changes = append(changes, groupsChanged)
		}
	}
	return append(changes, devicesChanged(ids...))
}

// UpdateDevice changes one. The caller must be admin of one of its groups, and of all groups it is moved into or out of.
func (v *Inventory) UpdateDevice(ctx context.Context, c Caller, id devices.ID, p DevicePatch) (devices.Device, error) {
	d, err := v.updateDevice(ctx, c, id, p)
	if err != nil {
		return devices.Device{}, err
	}
	return d, v.apply(ctx, v.deviceChanges(d)...)
}

func (v *Inventory) updateDevice(ctx context.Context, c Caller, id devices.ID, p DevicePatch) (devices.Device, error) {
	if err := signedIn(c); err != nil {
		return devices.Device{}, err
	}
	return v.store.UpdateDevice(ctx, c.Actor(), id, func(d *devices.Device) error { return p.apply(c, d) })
}

// apply makes the change, if the caller may.
func (p DevicePatch) apply(c Caller, d *devices.Device) error {
	if err := needDevice(c, devices.Admin, d.Groups); err != nil {
		return err
	}
	before := d.Groups
	set(&d.Label, p.Label)
	set(&d.Type, p.Type)
	set(&d.State, p.State)
	set(&d.ExpectedInterval, p.ExpectedInterval)
	if p.Attributes != nil {
		d.Attributes = json.RawMessage(*p.Attributes)
	}
	if p.Groups != nil {
		d.Groups = tidy(*p.Groups)
	}
	if err := d.Validate(); err != nil {
		return err
	}
	for _, g := range slices.Concat(before, d.Groups) {
		if slices.Contains(before, g) != slices.Contains(d.Groups, g) && !c.Can(devices.Admin, g) {
			return fmt.Errorf("group %s: %w", g, devices.ErrForbidden)
		}
	}
	return nil
}

// DeleteDevice deletes one with its credentials, series, values and what is recorded of it.
func (v *Inventory) DeleteDevice(ctx context.Context, c Caller, id devices.ID) error {
	if err := signedIn(c); err != nil {
		return err
	}
	err := v.store.DeleteDevice(ctx, c.Actor(), id, func(d devices.Device) error {
		if !c.CanAll(devices.Admin, d.Groups) {
			return refusal(c.CanAny(devices.Viewer, d.Groups))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return v.apply(ctx, devicesChanged(id))
}

// Credentials returns those of a device, oldest first.
func (v *Inventory) Credentials(ctx context.Context, c Caller, id devices.ID) ([]devices.Credential, error) {
	if _, err := v.device(ctx, c, devices.Admin, id); err != nil {
		return nil, err
	}
	return v.store.Credentials(ctx, id)
}

// CreateCredential lets a device in by one more token, which is returned this once, or certificate.
func (v *Inventory) CreateCredential(ctx context.Context, c Caller, id devices.ID, r CredentialRequest) (devices.Credential, string, error) {
	if _, err := v.device(ctx, c, devices.Admin, id); err != nil {
		return devices.Credential{}, "", err
	}
	if r.Expires != nil && !r.Expires.After(time.Now()) {
		return devices.Credential{}, "", devices.Invalid("expires", "is in the past")
	}
	cr := devices.Credential{Device: id, Kind: devices.TokenCredential, Expires: r.Expires}
	secret := ""
	if r.Fingerprint != "" {
		sum, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(r.Fingerprint), ":", ""))
		if err != nil || len(sum) != 32 {
			return devices.Credential{}, "", devices.Invalid("fingerprint", "must be the SHA-256 of the certificate: 64 hexadecimal digits, colons allowed")
		}
		cr.Kind, cr.Hash, cr.Hint = devices.X509Credential, sum, hex.EncodeToString(sum[30:])
	} else {
		secret = newSecret(deviceTokenPrefix)
		cr.Hash, cr.Hint = hash(secret), hint(secret)
	}
	cr, err := v.store.CreateCredential(ctx, c.Actor(), cr)
	if err != nil {
		return devices.Credential{}, "", err
	}
	return cr, secret, v.apply(ctx, devicesChanged(id))
}

// DeleteCredential revokes one; connections that were made with it end.
func (v *Inventory) DeleteCredential(ctx context.Context, c Caller, id devices.ID, credential string) error {
	if _, err := v.device(ctx, c, devices.Admin, id); err != nil {
		return err
	}
	if err := v.store.DeleteCredential(ctx, c.Actor(), id, credential); err != nil {
		return err
	}
	return v.apply(ctx, devicesChanged(id))
}

func set[T any](field *T, to *T) {
	if to != nil {
		*field = *to
	}
}

// tidy sorts paths and drops repeated ones.
func tidy(paths []devices.GroupPath) []devices.GroupPath {
	paths = slices.Clone(paths)
	slices.Sort(paths)
	return slices.Compact(paths)
}

func pathList(paths []devices.GroupPath) string {
	if len(paths) == 0 {
		return "no group"
	}
	return fmt.Sprint(paths)
}
