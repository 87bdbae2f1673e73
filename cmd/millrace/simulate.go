package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"time"

	"millrace/cmd/internal/client"
	"millrace/cmd/millrace/fleet"
)

// simulateCmd publishes what a simulated plant measures.
type simulateCmd struct {
	Broker   string        `default:"mqtt://localhost:1883" help:"Broker to publish to: mqtt, mqtts, ws or wss."`
	Server   string        `default:"http://localhost:8080" help:"Millrace server whose REST API makes groups and devices; \"off\" to make none."`
	Token    string        `help:"API token of an admin of the site, for --server."`
	Keys     string        `default:"millrace-simulate.json" type:"path" help:"File that keeps the devices' tokens between runs."`
	Username string        `help:"User name for all connections in place of the device's id, for a broker that is not Millrace."`
	Password string        `help:"Password that goes with it. Better given as MILLRACE_PASSWORD."`
	Seed     uint64        `default:"1" help:"Another number is another plant."`
	Duration time.Duration `help:"How long to publish; without it, until interrupted."`
	LogLevel string        `enum:"debug,info,warn,error" default:"warn" help:"Least level that is logged."`
}

func (c *simulateCmd) Run(ctx context.Context, con *console) error {
	broker, err := url.Parse(c.Broker)
	if err != nil || broker.Host == "" {
		return fmt.Errorf("--broker: %q is no address such as mqtt://localhost:1883", c.Broker)
	}
	keys, err := fleet.OpenKeys(c.Keys)
	if err != nil {
		return err
	}
	plant := fleet.NewPlant(c.Seed, time.Now())
	p := &fleet.Publisher{Plant: plant, Broker: broker, TLS: &tls.Config{MinVersion: tls.VersionTLS12}, Keys: keys, User: c.Username, Password: c.Password,
		Log: Logging{LogLevel: c.LogLevel}.logger(con.err)}
	if !off(c.Server) {
		api, err := client.New(c.Server, c.Token)
		if err != nil {
			return err
		}
		created, err := plant.Provision(ctx, api, keys)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Server, err)
		}
		p.Site = api
		fmt.Fprintf(con.out, "%d devices, of which %d are new\n", len(plant.Units), created)
	}
	if c.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Duration)
		defer cancel()
	}
	fmt.Fprintf(con.out, "publishing %d series to %s; interrupt to stop\n", plant.Series(), broker.Redacted())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	var before uint64
	for {
		select {
		case err := <-done:
			sent, lost, _ := p.Stats()
			fmt.Fprintf(con.out, "%d messages sent, %d lost\n", sent, lost)
			return err
		case <-tick.C:
			sent, lost, up := p.Stats()
			fmt.Fprintf(con.out, "%s  %d connections, %d messages/s, %d lost\n", time.Now().Format(time.TimeOnly), up, (sent-before)/10, lost)
			before = sent
		}
	}
}
