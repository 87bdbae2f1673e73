package fleet

import (
	"context"
	"errors"
	"fmt"

	"millrace/devices"
)

// A Site is where the fleet's devices are made: the inventory of this process or a server's REST API.
type Site interface {
	CreateGroup(ctx context.Context, g devices.Group) error              // ErrExists: it is there
	CreateDevice(ctx context.Context, d devices.Device) (string, error)  // its first token; ErrExists: it is there
	CreateCredential(ctx context.Context, id devices.ID) (string, error) // a further token
	Metrics(ctx context.Context) ([]devices.Metric, error)               // those with settings or series
	UpdateMetric(ctx context.Context, m devices.Metric) error            // label, unit and limits
}

// Provision makes what is missing of the plant: groups, devices with their tokens, settings of metrics. What is there stays
// as it is, so that people can edit the demo without a restart taking it back.
func (p *Plant) Provision(ctx context.Context, to Site, keys *Keys) (created int, err error) {
	for _, g := range p.Groups {
		if err := to.CreateGroup(ctx, g); err != nil && !errors.Is(err, devices.ErrExists) {
			return created, fmt.Errorf("group %s: %w", g.Path, err)
		}
	}
	have, err := to.Metrics(ctx)
	if err != nil {
		return created, fmt.Errorf("metrics: %w", err)
	}
	edited := map[string]bool{}
	for _, m := range have {
		edited[m.Name] = m.Label != "" || m.Unit != "" || m.Low != nil || m.High != nil
	}
	for _, m := range p.Metrics {
		if edited[m.Name] {
			continue
		}
		if err := to.UpdateMetric(ctx, m); err != nil {
			return created, fmt.Errorf("metric %s: %w", m.Name, err)
		}
	}
	for _, u := range p.Units {
		token, err := to.CreateDevice(ctx, u.Device)
		switch {
		case err == nil:
			created++
		case !errors.Is(err, devices.ErrExists):
			return created, fmt.Errorf("device %s: %w", u.ID, err)
		case keys.Token(u.ID) != "":
			continue
		default:
			if token, err = to.CreateCredential(ctx, u.ID); err != nil {
				return created, fmt.Errorf("token for device %s: %w", u.ID, err)
			}
		}
		keys.Set(u.ID, token)
	}
	return created, keys.Save()
}
