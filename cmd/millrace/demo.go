package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"millrace/cmd/millrace/fleet"
	"millrace/devices"
	"millrace/devices/inventory"
)

// The demo's operator: may see and acknowledge, and manage nothing.
const (
	demoEmail = "operator@localhost"
	demoGroup = devices.GroupPath("riverside")
	demoSeed  = 1
)

// inProcess is this server's inventory as the fleet's site.
type inProcess struct{ *inventory.Inventory }

func byDemo() inventory.Caller { return inventory.Caller{Principal: devices.System} }

func (p inProcess) CreateGroup(ctx context.Context, g devices.Group) error {
	_, err := p.Inventory.CreateGroup(ctx, byDemo(), g)
	return err
}

func (p inProcess) CreateDevice(ctx context.Context, d devices.Device) (string, error) {
	_, token, err := p.Inventory.CreateDevice(ctx, byDemo(), d)
	return token, err
}

func (p inProcess) CreateCredential(ctx context.Context, id devices.ID) (string, error) {
	_, token, err := p.Inventory.CreateCredential(ctx, byDemo(), id, inventory.CredentialRequest{})
	return token, err
}

func (p inProcess) Metrics(ctx context.Context) ([]devices.Metric, error) {
	return p.Inventory.Metrics(ctx, byDemo())
}

func (p inProcess) UpdateMetric(ctx context.Context, m devices.Metric) error {
	_, err := p.Inventory.UpdateMetric(ctx, byDemo(), m.Name, inventory.Settings{Label: &m.Label, Unit: &m.Unit, Low: &m.Low, High: &m.High})
	return err
}

// demo makes the example site and lets its fleet publish to our own broker, until the returned function is called. On a
// restart it finds its devices again.
func (s *server) demo(ctx context.Context) (stop func(), err error) {
	dir, err := s.c.Storage.dir("demo-tokens.json")
	if err != nil {
		return nil, err
	}
	keys, err := fleet.OpenKeys(dir)
	if err != nil {
		return nil, err
	}
	site := inProcess{s.inventory}
	plant := fleet.NewPlant(demoSeed, time.Now())
	created, err := plant.Provision(ctx, site, keys)
	if err != nil {
		return nil, err
	}
	password, err := s.demoOperator(ctx)
	if err != nil {
		return nil, err
	}
	broker, _ := url.Parse(s.c.Sources.Broker.URL) // Validate has seen it
	user, secret := "", ""
	if s.broker != nil && s.broker.Addr() != nil {
		broker = &url.URL{Scheme: "mqtt", Host: loopback(s.broker.Addr())}
	} else if broker.User != nil {
		user = broker.User.Username()
		secret, _ = broker.User.Password()
	}
	publisher := &fleet.Publisher{Plant: plant, Broker: broker, Keys: keys, Site: site, User: user, Password: secret, Log: s.log}
	st := newStage(ctx, func(err error) { s.log.Error("simulated plant", "err", err) })
	st.run("simulated plant", publisher.Run)
	s.log.Info("simulated plant publishes", "devices", len(plant.Units), "series", plant.Series(), "new", created)
	fmt.Fprintf(s.out, "  Demo: %s/g/%s\n  sign in as        %s\n  with password     %s\n\n", s.url(), demoGroup, demoEmail, password)
	return st.stop, nil
}

// demoOperator makes somebody who may look at the example site, with a password that is kept in the data directory and shown at each
// start. If the password was changed or the user deleted, that stays so.
func (s *server) demoOperator(ctx context.Context) (string, error) {
	path, err := s.c.Storage.dir("demo-operator.json")
	if err != nil {
		return "", err
	}
	var kept struct{ Password string }
	if err := readJSON(path, &kept); err != nil {
		return "", err
	}
	if kept.Password != "" {
		return kept.Password, nil
	}
	kept.Password = rand.Text()[:16]
	u, err := s.inventory.CreateUser(ctx, byDemo(), devices.User{Email: demoEmail, Name: "Demo operator"}, kept.Password)
	if errors.Is(err, devices.ErrExists) {
		return "(as it was set)", nil
	}
	if err == nil {
		_, err = s.inventory.CreateBinding(ctx, byDemo(), devices.Binding{User: u.ID, Group: demoGroup, Role: devices.Operator})
	}
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(kept)
	if err != nil {
		return "", err
	}
	return kept.Password, writeFile(path, b)
}

// loopback is how this machine itself reaches an address that is listened on.
func loopback(a net.Addr) string {
	host, port, _ := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
