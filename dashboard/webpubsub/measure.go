package webpubsub

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/webpubsub/telemetry"
	"millrace/devices"
	"millrace/devices/hubs"
	"millrace/fanout/hub"
)

// user is who connects to the telemetry hub as a user of Millrace, or with one of its API tokens; nil: nobody, or another hub.
func (e *Endpoint) user(c *fiber.Ctx, hubName string) *devices.Principal {
	if e.d.Who == nil || !strings.EqualFold(hubName, telemetry.Hub) {
		return nil
	}
	return e.d.Who(c)
}

// mayOf is what a user of Millrace may do in the telemetry hub: join the groups that they may view, as their rights are now.
func (e *Endpoint) mayOf(p *devices.Principal) func(hub.Permission, string) bool {
	return func(what hub.Permission, group string) bool {
		path := devices.GroupPath(group)
		if what != hub.JoinLeaveGroup || path.Validate() != nil {
			return false
		}
		now := e.d.Now(p)
		return now != nil && now.Can(devices.Viewer, path)
	}
}

// RightsChanged lets users of Millrace leave the groups that they may not view any more. It does not block.
func (e *Endpoint) RightsChanged() {
	select {
	case e.rights <- struct{}{}:
	default:
	}
}

// follow looks at rights when they have changed.
func (e *Endpoint) follow(ctx context.Context) {
	h := e.hubs.Hub(telemetry.Hub)
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.rights:
		}
		for _, c := range h.Conns() {
			if !c.Governed() {
				continue
			}
			for _, group := range c.Groups() {
				if !c.Allowed(hub.JoinLeaveGroup, group) {
					h.RemoveFromGroup(c.ID(), group)
				}
			}
		}
	}
}

// measureEvent stores an event that is a measurement; false: it is none.
func (e *Endpoint) measureEvent(ctx context.Context, c *hub.Conn, name string, data hub.Data) (bool, error) {
	return e.measure(ctx, c, data, func(m hubs.Mapping) bool { return m.Event != "" && hub.MatchPattern(m.Event, name) }, name, "")
}

// measureMessage stores a message to a group that is a measurement.
func (e *Endpoint) measureMessage(ctx context.Context, c *hub.Conn, group string, data hub.Data) error {
	_, err := e.measure(ctx, c, data, func(m hubs.Mapping) bool { return m.Group != "" && hub.MatchPattern(m.Group, group) }, "", group)
	return err
}

func (e *Endpoint) measure(ctx context.Context, c *hub.Conn, data hub.Data, is func(hubs.Mapping) bool, name, group string) (bool, error) {
	if e.d.Measure == nil {
		return false, nil
	}
	for _, m := range e.settings.Hub(c.Hub().Name()).Telemetry {
		if !is(m) {
			continue
		}
		payload := data.Bytes
		if data.Kind != hub.JSON && !json.Valid(payload) {
			return true, &hub.Error{Name: "BadRequest", Message: "A measurement must be JSON."}
		}
		device := strings.NewReplacer("{userId}", c.User(), "{connectionId}", c.ID(), "{group}", group, "{event}", name).Replace(m.Device)
		if err := e.d.Measure(ctx, device, payload); err != nil {
			return true, &hub.Error{Name: "BadRequest", Message: err.Error()}
		}
		return true, nil
	}
	return false, nil
}
