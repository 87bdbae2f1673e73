package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/postgres/pgerr"
)

const (
	loadDevices     = deviceColumns + ` where @ids::text[] is null or d.id = any(@ids::text[])`
	loadCredentials = credentialColumns + ` where @ids::text[] is null or device = any(@ids::text[]) order by created_at, id`
	loadSeries      = seriesColumns + ` where @ids::text[] is null or device = any(@ids::text[]) order by created_at, metric`
	loadGroups      = `select path, label, tick_ms * 1000000 as tick, retention_days as retention, created_at, 0 as devices from device_group order by path`
	loadUsers       = userColumns
	loadTokens      = tokenColumns
	loadBindings    = bindingColumns
)

// LoadDevices is catalog.Loader's: all of one moment.
func (s *Store) LoadDevices(ctx context.Context, ids []devices.ID) ([]catalog.DeviceRecord, error) {
	var records []catalog.DeviceRecord
	err := s.snapshot(ctx, func(tx pgx.Tx) error {
		args := pgx.StrictNamedArgs{"ids": texts(ids)}
		found, err := list[devices.Device](ctx, tx, loadDevices, args)
		if err != nil {
			return err
		}
		credentials, err := list[devices.Credential](ctx, tx, loadCredentials, args)
		if err != nil {
			return err
		}
		series, err := list[storedSeries](ctx, tx, loadSeries, args)
		if err != nil {
			return err
		}
		at := make(map[devices.ID]int, len(found))
		records = make([]catalog.DeviceRecord, len(found))
		for i, d := range found {
			records[i].Device, at[d.ID] = d, i
		}
		for _, c := range credentials {
			r := &records[at[c.Device]]
			r.Credentials = append(r.Credentials, c)
		}
		for _, one := range series {
			r := &records[at[one.Device]]
			r.Series = append(r.Series, one.series())
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load devices: %w", pgerr.Domain(err))
	}
	return records, nil
}

// LoadGroups is catalog.Loader's.
func (s *Store) LoadGroups(ctx context.Context) (groups []devices.Group, metrics []devices.Metric, err error) {
	err = s.snapshot(ctx, func(tx pgx.Tx) (err error) {
		if groups, err = list[devices.Group](ctx, tx, loadGroups, pgx.StrictNamedArgs{}); err != nil {
			return err
		}
		metrics, err = list[devices.Metric](ctx, tx, metricsAll, pgx.StrictNamedArgs{})
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("load groups: %w", pgerr.Domain(err))
	}
	return groups, metrics, nil
}

// LoadAccess is catalog.Loader's.
func (s *Store) LoadAccess(ctx context.Context) (catalog.Access, error) {
	var a catalog.Access
	err := s.snapshot(ctx, func(tx pgx.Tx) (err error) {
		if a.Users, err = list[devices.User](ctx, tx, loadUsers, pgx.StrictNamedArgs{}); err != nil {
			return err
		}
		if a.Tokens, err = list[devices.APIToken](ctx, tx, loadTokens, pgx.StrictNamedArgs{}); err != nil {
			return err
		}
		a.Bindings, err = list[devices.Binding](ctx, tx, loadBindings, pgx.StrictNamedArgs{})
		return err
	})
	if err != nil {
		return catalog.Access{}, fmt.Errorf("load access: %w", pgerr.Domain(err))
	}
	return a, nil
}

// snapshot runs queries that see the database as of one moment.
func (s *Store) snapshot(ctx context.Context, f func(tx pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, f)
}

func duration(ns int64) time.Duration { return time.Duration(ns) }
