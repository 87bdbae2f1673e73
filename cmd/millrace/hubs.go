package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/dashboard/webpubsub"
	"millrace/dashboard/webpubsub/event"
	"millrace/dashboard/webpubsub/telemetry"
	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/hubs"
	"millrace/ingest"
)

// pubsub makes what serves Web PubSub.
func (s *server) pubsub(a *auth.Auth) {
	handlers := s.c.Listen.PubSub.Handlers
	if handlers.Origin == "" {
		handlers.Origin = s.origin()
	}
	s.dispatcher = event.New(handlers, s.hubs, s.store, s.spine.Publish, nil, s.log)
	s.endpoint = webpubsub.New(s.c.Listen.PubSub, webpubsub.Deps{
		Settings: s.hubs,
		Events:   s.dispatcher,
		Feeds:    telemetry.New(s.engine),
		Who: func(c *fiber.Ctx) *devices.Principal {
			who := auth.Caller(c)
			if _, cookie := auth.Session(c); cookie && !a.OwnOrigin(c) {
				return nil
			}
			return who.Principal
		},
		Now:     func(p *devices.Principal) *devices.Principal { return s.catalog.Principal(p.Kind, p.ID) },
		Measure: s.measure,
	}, s.log)
}

// origin is the host name that event handlers know the server by: that of its first endpoint, or what it listens on.
func (s *server) origin() string {
	if all := s.c.Listen.PubSub.Endpoints; len(all) > 0 {
		if u, err := url.Parse(all[0]); err == nil && u.Hostname() != "" {
			return u.Hostname()
		}
	}
	host, _, _ := net.SplitHostPort(s.c.Listen.HTTPAddr)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return "localhost"
	}
	return host
}

// loadHubs reads the settings of Web PubSub.
func (s *server) loadHubs(ctx context.Context) error {
	if k := s.c.Access.AccessKey; k != "" {
		if err := hubs.CheckKey(k); err != nil {
			return fmt.Errorf("--access-key %w", err)
		}
	}
	s.hubs = hubs.NewRegistry(s.store, s.c.Access.AccessKey)
	if err := s.hubs.Load(ctx); err != nil {
		return fmt.Errorf("settings of Web PubSub: %w", err)
	}
	return nil
}

// followRights tells open connections when rights change.
func (s *server) followRights() (cancel func()) {
	return s.catalog.Watch(func(e catalog.Event) {
		if e.Access || e.Groups {
			s.endpoint.RightsChanged()
		}
	})
}

// measure takes a measurement that a Web PubSub client sent, and returns when it is stored.
func (s *server) measure(ctx context.Context, device string, payload []byte) error {
	d := s.catalog.Device(devices.ID(device))
	if d == nil {
		return fmt.Errorf("there is no device %.100q", device)
	}
	done := make(chan error, 1)
	s.pipeline.Handle(&ingest.Message{Protocol: ingest.HTTP, Device: d, Topic: "webpubsub", Payload: payload, Recv: time.Now().UnixMilli(), Wait: true}, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.New("the client has gone")
	}
}
