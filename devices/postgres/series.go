package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/postgres/pgerr"
)

const seriesColumns = `select device, metric, kind, label, unit, low, high, expected_interval_ms * 1000000 as expected_interval from series`

const (
	seriesLocked = seriesColumns + ` where device = @device and metric = @metric for update`
	insertSeries = `insert into series (device, metric, kind) values (@device, @metric, @kind) on conflict do nothing`
	updateSeries = `update series set label = @label, unit = @unit, low = @low, high = @high, expected_interval_ms = @interval
		where device = @device and metric = @metric`
	metricsAll   = `select name, label, unit, low, high from metric order by name`
	metricLocked = `select name, label, unit, low, high from metric where name = @name for update`
	insertMetric = `insert into metric (name) values (@name) on conflict do nothing`
	updateMetric = `update metric set label = @label, unit = @unit, low = @low, high = @high where name = @name`
)

// storedSeries is a row of series, without SeriesID.
type storedSeries struct {
	Device           devices.ID
	Metric           string
	Kind             int16
	Label, Unit      string
	Low, High        *float64
	ExpectedInterval int64
}

func (r storedSeries) series() devices.Series {
	return devices.Series{Device: r.Device, Metric: r.Metric, Kind: devices.Kind(r.Kind), Label: r.Label, Unit: r.Unit, Low: r.Low, High: r.High,
		ExpectedInterval: duration(r.ExpectedInterval)}
}

// UpdateSeries changes the own settings of a series, which is made with this kind if the Recorder has not written it yet.
func (s *Store) UpdateSeries(ctx context.Context, by devices.Actor, device devices.ID, metric string, k devices.Kind, change func(*devices.Series) error) (devices.Series, error) {
	var now devices.Series
	err := s.mutate(ctx, by, func(m *mutation) error {
		names := pgx.StrictNamedArgs{"device": string(device), "metric": metric}
		if _, err := m.Exec(ctx, insertSeries, pgx.StrictNamedArgs{"device": string(device), "metric": metric, "kind": int16(k)}); err != nil {
			return err
		}
		row, err := one[storedSeries](ctx, m, seriesLocked, names)
		if err != nil {
			return err
		}
		now = row.series()
		if err := change(&now); err != nil {
			return err
		}
		if err := exec(ctx, m, updateSeries, pgx.StrictNamedArgs{"device": string(device), "metric": metric, "label": now.Label, "unit": now.Unit,
			"low": now.Low, "high": now.High, "interval": interval(now.ExpectedInterval)}); err != nil {
			return err
		}
		m.audit("series.update", string(device)+"/"+metric, map[string]any{"label": now.Label, "unit": now.Unit, "low": now.Low, "high": now.High,
			"expectedIntervalMs": interval(now.ExpectedInterval)})
		m.changed(catalog.DevicesChanged, device)
		return nil
	})
	if err != nil {
		return now, fmt.Errorf("update series %s/%s: %w", device, metric, pgerr.Domain(err))
	}
	return now, nil
}

// Metrics returns those with settings, by name.
func (s *Store) Metrics(ctx context.Context) ([]devices.Metric, error) {
	found, err := list[devices.Metric](ctx, s.pool, metricsAll, pgx.StrictNamedArgs{})
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return found, nil
}

// UpdateMetric changes the settings of a metric; it need not have had any before.
func (s *Store) UpdateMetric(ctx context.Context, by devices.Actor, name string, change func(*devices.Metric) error) (devices.Metric, error) {
	var now devices.Metric
	err := s.mutate(ctx, by, func(m *mutation) (err error) {
		if _, err := m.Exec(ctx, insertMetric, pgx.StrictNamedArgs{"name": name}); err != nil {
			return err
		}
		if now, err = one[devices.Metric](ctx, m, metricLocked, pgx.StrictNamedArgs{"name": name}); err != nil {
			return err
		}
		if err := change(&now); err != nil {
			return err
		}
		if err := exec(ctx, m, updateMetric, pgx.StrictNamedArgs{"name": name, "label": now.Label, "unit": now.Unit, "low": now.Low, "high": now.High}); err != nil {
			return err
		}
		m.audit("metric.update", name, map[string]any{"label": now.Label, "unit": now.Unit, "low": now.Low, "high": now.High})
		m.changed(catalog.GroupsChanged)
		return nil
	})
	if err != nil {
		return now, fmt.Errorf("update metric %s: %w", name, pgerr.Domain(err))
	}
	return now, nil
}
