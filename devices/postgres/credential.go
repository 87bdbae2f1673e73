package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/postgres/pgerr"
)

const (
	credentialColumns   = `select id, device, kind, hint, hash, created_at, expires from credential`
	credentialsByDevice = credentialColumns + ` where device = @device order by created_at, id`
	insertCredential    = `insert into credential (id, device, kind, hint, hash, expires)
		values (@id, @device, @kind, @hint, @hash, @expires)
		returning id, device, kind, hint, hash, created_at, expires`
	deleteCredential = `delete from credential where id = @id and device = @device`
)

// Credentials returns those of a device, oldest first.
func (s *Store) Credentials(ctx context.Context, device devices.ID) ([]devices.Credential, error) {
	found, err := list[devices.Credential](ctx, s.pool, credentialsByDevice, pgx.StrictNamedArgs{"device": string(device)})
	if err != nil {
		return nil, fmt.Errorf("credentials of device %s: %w", device, err)
	}
	return found, nil
}

// CreateCredential adds one to c.Device. ErrExists: its hash is known already; ErrNotFound: there is no such device.
func (s *Store) CreateCredential(ctx context.Context, by devices.Actor, c devices.Credential) (devices.Credential, error) {
	err := s.mutate(ctx, by, func(m *mutation) (err error) {
		if c, err = m.addCredential(ctx, c); err != nil {
			return err
		}
		m.audit("credential.create", string(c.Device), map[string]any{"id": c.ID, "kind": c.Kind, "expires": c.Expires})
		m.changed(catalog.DevicesChanged, c.Device)
		return nil
	})
	if err != nil {
		return c, fmt.Errorf("create credential of device %s: %w", c.Device, pgerr.Domain(err))
	}
	return c, nil
}

// DeleteCredential revokes one.
func (s *Store) DeleteCredential(ctx context.Context, by devices.Actor, device devices.ID, id string) error {
	err := s.mutate(ctx, by, func(m *mutation) error {
		if err := exec(ctx, m, deleteCredential, pgx.StrictNamedArgs{"id": id, "device": string(device)}); err != nil {
			return err
		}
		m.audit("credential.delete", string(device), map[string]any{"id": id})
		m.changed(catalog.DevicesChanged, device)
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete credential %s of device %s: %w", id, device, pgerr.Domain(err))
	}
	return nil
}

func (m *mutation) addCredential(ctx context.Context, c devices.Credential) (devices.Credential, error) {
	return one[devices.Credential](ctx, m, insertCredential, pgx.StrictNamedArgs{"id": newID(), "device": string(c.Device), "kind": string(c.Kind),
		"hint": c.Hint, "hash": c.Hash, "expires": c.Expires})
}
